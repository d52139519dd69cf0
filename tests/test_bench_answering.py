"""How items become prompts and rollouts become the text that is scored, with a sampler that follows a script."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dermo_ray.bench.answering import Asked, respond
from dermo_ray.bench.tasks import BenchItem, score
from dermo_ray.cct import Sample
from dermo_ray.config.bench import Method
from dermo_ray.taxonomy import Taxonomy
from tests.bench_cases import choice_item, open_item, settings, walk_item

IMAGE = Image.new("RGB", (32, 32), (200, 150, 140))


class Scripted:
    """Answers with what `say` makes of the conversation and the temperature; keeps what it was asked."""

    def __init__(self, say: Callable[[Asked, float], str]) -> None:
        self.say = say
        self.asked: list[Asked] = []

    async def __call__(
        self, image: Image.Image, prompt: Asked, *, temperature: float, seed: int, top_logprobs: int
    ) -> Sample:
        self.asked.append(prompt)
        text = self.say(prompt, temperature)
        return Sample(text, list(text), [-0.1] * len(text), prompt_tokens=50, completion_tokens=len(text))


def answered(tmp_path: Path, item: BenchItem, method: Method, sampler: Scripted, images=(IMAGE,), **values):
    shown = item.model_copy(update={"images": tuple(str(number) for number in range(len(images)))})
    return asyncio.run(respond(sampler, shown, images, method, settings(tmp_path, **values), Taxonomy.load()))


def test_a_greedy_answer_is_scored_as_it_was_written(tmp_path):
    item = choice_item("0", right=1)
    sampler = Scripted(lambda asked, temperature: "I think the answer is B")
    found = answered(tmp_path, item, "greedy", sampler)
    assert found.texts == ("I think the answer is B",)
    assert (found.steps[0].answer, found.steps[0].posterior, found.completion_tokens) == ("Blue Nevus", {}, 23)
    assert found.steps[0].confidence == pytest.approx(0.905, abs=1e-3)
    assert score(item, found.scored_answer).right == (True,)
    (asked,) = sampler.asked
    assert asked.turns[0].value.startswith("<image>\nWhich?")
    assert asked.max_tokens == 128


@pytest.mark.parametrize(("method", "rollouts"), [("majority", 8), ("cct", 8), ("cct_early", 3)])
def test_what_several_rollouts_elect_is_written_as_the_option(method, rollouts, tmp_path):
    sampler = Scripted(lambda asked, temperature: "b) blue nevus")
    found = answered(tmp_path, choice_item("0", right=1), method, sampler)
    assert found.texts == ("B) Blue Nevus",)
    assert (len(found.steps[0].votes), found.steps[0].planned) == (rollouts, 8)
    assert found.completion_tokens == rollouts * len("b) blue nevus")


def test_no_method_is_read_more_kindly_than_the_benchmark_reads(tmp_path):
    item = choice_item("0", right=0)
    sampler = Scripted(lambda asked, temperature: "A) Blue Nevus")  # letter and words disagree
    for method in ("greedy", "majority", "cct"):
        found = answered(tmp_path, item, method, sampler)
        assert found.steps[0].answer is None
        assert score(item, found.scored_answer).right == (False,)


def test_an_answer_where_cct_does_not_look_still_votes(tmp_path):
    sampler = Scripted(lambda asked, temperature: "Not a nevus at all.\nIt is flat and dark.\n(C)")
    found = answered(tmp_path, choice_item("0", right=2), "cct", sampler)
    assert found.texts == ("C) Basal Cell Carcinoma",)


@pytest.mark.parametrize("method", ["greedy", "cct"])
def test_a_walk_is_led_back_to_the_right_path_by_every_method(method, tmp_path):
    def say(asked: Asked, temperature: float) -> str:
        return "Infections" if len(asked.turns) == 1 else "Nevus"

    item = walk_item()
    sampler = Scripted(say)
    found = answered(tmp_path, item, method, sampler)
    assert found.texts == ("Infections", "Nevus")
    assert score(item, found.scored_answer).right == (False, True)
    last = sampler.asked[-1].turns
    assert [turn.from_ for turn in last] == ["human", "gpt", "human"]
    assert last[-1].value.startswith('That is not right: it is "Neoplasms".')


def test_of_diagnoses_the_heaviest_rollout_speaks(tmp_path):
    texts = iter(["Melanoma", "Blue Nevus", *["Melanoma"] * 6])

    def say(asked: Asked, temperature: float) -> str:
        return f"<reasoning>So.</reasoning>\n<final_diagnosis>{next(texts)}</final_diagnosis>"

    found = answered(tmp_path, open_item(), "cct", Scripted(say))
    assert found.steps[0].answer == "Melanoma"
    assert found.texts[0].endswith("<final_diagnosis>Melanoma</final_diagnosis>")
    assert found.steps[0].posterior["Melanoma"] > found.steps[0].posterior["Blue Nevus"] > 0


def test_a_diagnosis_without_a_block_of_its_own_is_read_too(tmp_path):
    found = answered(tmp_path, open_item(), "cct", Scripted(lambda asked, t: "It is flat.\nFinal diagnosis: melanoma."))
    assert (found.steps[0].answer, found.steps[0].posterior) == ("Melanoma", {"Melanoma": 1.0})


def test_a_description_has_a_text_and_no_answer(tmp_path):
    found = answered(tmp_path, open_item(task="t1.1"), "greedy", Scripted(lambda asked, t: "A brown macule."))
    assert found.texts == ("A brown macule.",)
    assert found.steps[0].answer is None


def test_further_images_of_an_item_are_shown_as_they_are(tmp_path):
    other = Image.new("RGB", (8, 8))
    sampler = Scripted(lambda asked, temperature: "A")
    answered(tmp_path, choice_item("0"), "cct", sampler, images=(IMAGE, other))
    assert all(asked.further_images == (other,) for asked in sampler.asked)
    assert sampler.asked[0].turns[0].value.startswith("<image><image>\n")


def test_models_that_need_it_are_told_how_to_answer(tmp_path):
    sampler = Scripted(lambda asked, temperature: "A")
    answered(tmp_path, choice_item("0"), "greedy", sampler, instruct=True)
    assert "letter" in sampler.asked[0].turns[0].value
