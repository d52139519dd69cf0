"""CCT from end to end over fake samplers: plan, rounds, votes, baselines."""

import asyncio
import math
import zlib

import numpy as np
import pytest
from fake_sampler import LETTERS, FakeSampler, letter_sample, noisy_letters
from PIL import Image

from dermo_ray.cct import Inference, Sample, choice, diagnosis, greedy, infer, lettered_choice, majority, plan
from dermo_ray.config.cct import CCTConfig
from dermo_ray.taxonomy import Taxonomy

OPTIONS = {"A": "Melanoma", "B": "Nevus", "C": "Psoriasis", "D": "Eczema"}
LETTERED = lettered_choice(OPTIONS)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
DEFAULT = CCTConfig()


def run(sampler: FakeSampler, config: CCTConfig = DEFAULT, seed: int = 0) -> Inference:
    return asyncio.run(infer(sampler, IMAGE, "the prompt", config, LETTERED, modality="dermoscopic", seed=seed))


def always(letter: str, probability: float = 0.7) -> FakeSampler:
    others = {name: (1 - probability) / 3 for name in LETTERS if name != letter}
    return FakeSampler(lambda pixels, temperature, seed: letter_sample(letter, {letter: probability, **others}))


def test_every_draw_of_the_plan_is_sampled_once_with_its_view_temperature_and_seed() -> None:
    sampler = always("B")
    inference = run(sampler, seed=5)
    draws = plan(DEFAULT, "dermoscopic", 5)
    assert [vote.draw for vote in inference.votes] == draws
    assert [call[3] for call in sampler.calls] == [draw.seed for draw in draws]
    assert len({call[0] for call in sampler.calls}) == 4
    assert sampler.calls[0][0] == IMAGE.tobytes()
    assert [call[1:3] for call in sampler.calls] == [("the prompt", 0.0)] * 4 + [("the prompt", 0.7)] * 4
    assert {call[4] for call in sampler.calls} == {LETTERED.top_logprobs}
    assert sampler.most_running == 8


def test_the_answer_comes_with_posterior_votes_and_tokens() -> None:
    inference = run(always("B"))
    assert inference.result is not None
    assert inference.result.answer == "Nevus"
    assert inference.result.posterior == pytest.approx({"Nevus": 0.7, "Melanoma": 0.1, "Psoriasis": 0.1, "Eczema": 0.1})
    assert not inference.result.abstain
    assert [vote.weight for vote in inference.votes] == pytest.approx([1 / 8] * 8)
    assert (inference.prompt_tokens, inference.completion_tokens, inference.planned) == (80, 16, 8)
    assert [vote.rollout.view for vote in inference.votes if vote.rollout] == [v.draw.view for v in inference.votes]


def test_equal_seeds_give_equal_inferences_and_others_do_not() -> None:
    first, again, other = (run(noisy_letters(3, 0.5, 1.0), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.votes != other.votes


def test_completions_without_an_answer_have_no_vote_but_count_against_the_leader() -> None:
    def say(pixels: bytes, temperature: float, seed: int) -> Sample:
        return letter_sample("B", {"B": 1.0}) if seed in heard else letter_sample("?", {"?": 1.0})

    seeds = [draw.seed for draw in plan(DEFAULT, "dermoscopic", 0)]
    heard = set(seeds[:5])
    inference = run(FakeSampler(say))
    assert inference.result is not None
    assert (inference.result.confidence, inference.result.abstain) == (1.0, False)
    assert [vote.rollout is None for vote in inference.votes] == [False] * 5 + [True] * 3
    assert [vote.weight for vote in inference.votes] == pytest.approx([0.2] * 5 + [0.0] * 3)
    heard = set(seeds[:3])
    inference = run(FakeSampler(say))
    assert inference.result is not None
    assert (inference.result.confidence, inference.result.abstain) == (1.0, True)


def test_without_any_answer_there_is_none() -> None:
    inference = run(always("?"), CCTConfig(stop="probable"))
    assert inference.result is None
    assert inference.spokesman is None
    assert len(inference.votes) == 8


@pytest.mark.parametrize(("stop", "sampled"), [("never", 8), ("certain", 5), ("probable", 3)])
def test_a_unanimous_answer_stops_early(stop: str, sampled: int) -> None:
    sampler = always("B", 1 - 1e-9)
    inference = run(sampler, CCTConfig(stop=stop))
    assert len(sampler.calls) == len(inference.votes) == sampled
    assert (inference.planned, inference.completion_tokens) == (8, 2 * sampled)
    assert inference.result is not None
    assert inference.result.answer == "Nevus"


def test_an_error_is_raised_as_it_is_and_the_other_rollouts_are_ended() -> None:
    ended = []

    async def sampler(
        image: Image.Image, prompt: object, *, temperature: float, seed: int, top_logprobs: int
    ) -> Sample:
        if seed == plan(DEFAULT, "clinical", 0)[2].seed:
            raise ConnectionError("the engine is gone")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(seed)
            raise
        raise AssertionError("nobody ended it")

    async def work() -> None:
        with pytest.raises(ConnectionError, match="the engine is gone"):
            await infer(sampler, IMAGE, "", DEFAULT, LETTERED, modality="clinical")
        await asyncio.sleep(0)

    asyncio.run(work())
    assert len(ended) == 7


def task3(label: str, features: str) -> str:
    return (
        f'<reasoning>Seen.</reasoning>\n<morph>{{"morphological_features_skincon": [{features}]}}</morph>\n'
        f"<final_diagnosis>{label}</final_diagnosis>"
    )


def spoken(text: str, probability: float) -> Sample:
    return Sample(text, list(text), [math.log(probability)] * len(text), completion_tokens=len(text))


def test_of_equal_diagnoses_the_one_whose_morphology_others_share_speaks() -> None:
    said = [
        spoken(task3("Psoriasis", '"Plaque", "Scale"'), 0.8),
        spoken(task3("Psoriasis", '"Papule"'), 0.8),
        spoken(task3("Psoriasis", '"Scale", "Plaque"'), 0.8),
        spoken(task3("Melanoma", '"Plaque"'), 0.8),
    ]
    draws = plan(CCTConfig(samples_per_view=1), "clinical", 0)
    by_seed = {draw.seed: sample for draw, sample in zip(draws, said, strict=True)}
    sampler = FakeSampler(lambda pixels, temperature, seed: by_seed[seed])
    question = diagnosis(Taxonomy.load())
    inference = asyncio.run(infer(sampler, IMAGE, "", CCTConfig(samples_per_view=1), question, modality="clinical"))
    assert inference.result is not None
    assert inference.result.answer == "Psoriasis"
    first, second, third, fourth = (vote.weight for vote in inference.votes)
    assert first == third > second > fourth
    assert inference.spokesman is inference.votes[0]


def test_a_step_down_the_taxonomy_takes_a_conversation_for_its_prompt() -> None:
    turns = [{"from": "human", "value": 'Choose one of "Neoplasms", "Infections".'}]
    sampler = FakeSampler(lambda pixels, temperature, seed: spoken('"Infections"', 0.9))
    question = choice(["Neoplasms", "Infections"])
    inference = asyncio.run(infer(sampler, IMAGE, turns, DEFAULT, question, modality="clinical"))
    assert inference.result is not None
    assert inference.result.answer == "Infections"
    assert all(call[1] is turns for call in sampler.calls)


def test_greedy_is_one_completion_at_temperature_0_on_the_untouched_image() -> None:
    sampler = always("C")
    inference = asyncio.run(greedy(sampler, IMAGE, "", DEFAULT, LETTERED, modality="clinical"))
    assert [(call[0], call[2]) for call in sampler.calls] == [(IMAGE.tobytes(), 0.0)]
    assert inference.result is not None
    assert (inference.result.answer, inference.result.posterior) == ("Psoriasis", {"Psoriasis": 1.0})
    assert inference.votes[0].rollout is not None
    assert inference.votes[0].rollout.confidence == pytest.approx(0.7)


def test_majority_counts_as_many_votes_on_the_untouched_image_whatever_their_confidence() -> None:
    seeds = [draw.seed for draw in plan(CCTConfig(views={"clinical": ["identity"]}, samples_per_view=8), "clinical", 0)]

    def say(pixels: bytes, temperature: float, seed: int) -> Sample:
        if seeds.index(seed) < 5:
            return letter_sample("A", {"A": 0.3, "D": 0.7})
        return letter_sample("D", {"A": 0.01, "D": 0.99})

    sampler = FakeSampler(say)
    inference = asyncio.run(majority(sampler, IMAGE, "", DEFAULT, LETTERED, modality="clinical"))
    assert {call[0] for call in sampler.calls} == {IMAGE.tobytes()}
    assert inference.result is not None
    assert inference.result.posterior == pytest.approx({"Melanoma": 5 / 8, "Eczema": 3 / 8})


def test_samplers_that_are_sure_of_wrong_views_are_outvoted_at_fewer_tokens() -> None:
    # easy and hard questions; a view misleads the policy now and then, and greedy sees one view alone
    right = {"greedy": 0, "majority": 0, "cct": 0, "probable": 0, "certain": 0}
    tokens = dict.fromkeys(right, 0)
    same = 0

    async def compare() -> None:
        nonlocal same
        for item in range(150):
            sampler = noisy_letters(item, margin=[8.0, 5.0, 2.0][item % 3], noise=1.5)
            seed = zlib.crc32(str(item).encode())
            found = {
                name: await method(sampler, IMAGE, "", DEFAULT, LETTERED, modality="clinical", seed=seed)
                for name, method in (("greedy", greedy), ("majority", majority), ("cct", infer))
            }
            for stop in ("probable", "certain"):
                config = CCTConfig(stop=stop)
                found[stop] = await infer(sampler, IMAGE, "", config, LETTERED, modality="clinical", seed=seed)
            for name, inference in found.items():
                assert inference.result is not None
                right[name] += inference.result.answer == "Melanoma"
                tokens[name] += inference.completion_tokens
            assert found["certain"].result is not None
            assert found["cct"].result is not None
            assert found["certain"].result.answer == found["cct"].result.answer
            assert found["probable"].result is not None
            same += found["probable"].result.answer == found["cct"].result.answer

    asyncio.run(compare())
    assert tokens["cct"] == tokens["majority"] == 8 * tokens["greedy"]
    assert right["cct"] > right["majority"]
    assert right["cct"] > right["greedy"]
    assert tokens["certain"] < tokens["cct"]
    assert tokens["probable"] < 0.7 * tokens["cct"]
    assert same >= 0.96 * 150
