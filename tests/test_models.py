"""Chat templates, batches and policies, on a tiny Qwen3-VL with random weights."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.errors import UserError
from dermo_ray.models.batches import (
    PromptImages,
    TokenSequence,
    VLMBatch,
    collate,
    encode_conversations,
    encode_images,
    micro_batches,
    untrained,
)
from dermo_ray.models.chat import answer_texts, banned_token_ids, end_of_turn_id, load_processor, prompt_text
from dermo_ray.models.lengths import prompt_length, refuse_long_prompts
from dermo_ray.models.policy import PolicyScorer, load_policy
from dermo_ray.models.supervised import TokenScorer
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.records import GroundTruth, RLPrompt

QUESTION = {"from": "human", "value": "<image>\nclinical: diagnose"}
PAIR = {"from": "human", "value": "<image>\n<image>\nclinical and dermoscopic: diagnose"}
ANSWER = {"from": "gpt", "value": "<final_diagnosis>Psoriasis</final_diagnosis>"}
PLACEHOLDER = "<|image_pad|>"


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    return load_processor(tiny_model)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Any:
    return load_policy(ModelSettings(path=tiny_model)).eval()


@pytest.fixture(scope="module")
def images() -> list[list[Image.Image]]:
    """Of two prompts: one image, and two of unlike size."""
    drawn = [
        Image.fromarray(draw(seed, PhantomSettings(size=size)).image) for seed, size in ((1, 96), (2, 64), (3, 80))
    ]
    return [drawn[:1], drawn[1:]]


@pytest.fixture(scope="module")
def encoded(processor: Any, images: list[list[Image.Image]]) -> tuple[list[TokenSequence], list[PromptImages]]:
    """Both prompts with the same answer."""
    conversations = [("one", [QUESTION, ANSWER], images[0]), ("two", [PAIR, ANSWER], images[1])]
    pairs = encode_conversations(processor, conversations)
    return [sequence for sequence, _ in pairs], [own for _, own in pairs]


@pytest.fixture(scope="module")
def rows(encoded: Any) -> list[TokenSequence]:
    """Five answers of unlike length to the two prompts, the second prompt first."""
    sequences = []
    for length, shown in ((12, 1), (3, 0), (7, 1), (1, 0), (9, 0)):
        start = encoded[0][shown].trained.index(True)
        ids = encoded[0][shown].ids[: start + length]
        sequences.append(TokenSequence(ids, [False] * start + [True] * (len(ids) - start), shown))
    return sequences


@pytest.fixture(scope="module")
def batch(processor: Any, encoded: Any, rows: list[TokenSequence]) -> VLMBatch:
    return collate(rows, encoded[1], processor.tokenizer.pad_token_id)


def by_transformers(
    policy: Any, batch: VLMBatch, images: list[list[Image.Image]], processor: Any, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of the trained tokens by the stock forward pass, one unpadded sequence at a time."""
    banned = banned_token_ids(processor, policy.config.get_text_config().vocab_size)
    found = []
    for row in range(len(batch.input_ids)):
        length = int(batch.attention_mask[row].sum())
        ids, trained = batch.input_ids[row : row + 1, :length], batch.trained[row, :length]
        inputs = encode_images(processor, images[int(batch.image_index[row])]).tensors
        types = (ids == policy.config.image_token_id).int()
        logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **inputs).logits[0]
        logits[:, banned] = -torch.inf
        logprobs = (logits / temperature).log_softmax(-1)
        positions = trained.nonzero().flatten()
        found.append(logprobs[positions - 1, ids[0, positions]])
    return torch.cat(found)


def test_a_prompt_has_one_placeholder_for_its_image_and_ends_where_the_answer_begins(processor: Any) -> None:
    text = prompt_text(processor, [QUESTION])
    assert text.count(PLACEHOLDER) == 1
    assert "<image>" not in text
    assert text.index(PLACEHOLDER) < text.index("clinical: diagnose")
    assert text.rstrip().endswith("assistant")
    assert text == answer_texts(processor, [QUESTION, ANSWER])[0][0]


def test_only_the_assistants_words_are_trained_on_through_several_turns(processor: Any) -> None:
    more = {"from": "human", "value": "and now?"}
    pieces = answer_texts(processor, [QUESTION, ANSWER, more, ANSWER])
    assert [is_answer for _, is_answer in pieces] == [False, True, False, True]
    assert [text for text, is_answer in pieces if is_answer] == [ANSWER["value"] + processor.tokenizer.eos_token] * 2
    assert "and now?" in pieces[2][0]
    assert "diagnose" not in pieces[2][0]


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_model: Path) -> None:
    processor: Any = load_processor(tiny_model)
    processor.chat_template = "{{ messages | length }}{% for message in messages %}{{ message.role }}{% endfor %}"
    with pytest.raises(UserError, match="rewrites earlier turns"):
        answer_texts(processor, [QUESTION, ANSWER, QUESTION, ANSWER])


@pytest.mark.parametrize("prompt", [0, 1])
def test_a_trained_sequence_begins_with_the_tokens_the_engine_is_given(
    prompt: int, processor: Any, images: list[list[Image.Image]], encoded: Any
) -> None:
    sequence, turn = encoded[0][prompt], (QUESTION, PAIR)[prompt]
    start = sequence.trained.index(True)
    given = processor(text=[prompt_text(processor, [turn])], images=images[prompt])["input_ids"][0]
    assert sequence.ids[:start] == list(given)
    sizes = [image.size for image in images[prompt]]
    assert prompt_length(processor, turn["value"], sizes) == start
    assert all(sequence.trained[start:])
    assert processor.tokenizer.decode(sequence.ids[start:-1]) == ANSWER["value"]
    assert sequence.ids[-1] == end_of_turn_id(processor)


def test_tokens_that_must_not_be_sampled_are_all_special_ones_but_the_end_of_turn(processor: Any, policy: Any) -> None:
    size = policy.get_output_embeddings().weight.shape[0]
    banned = banned_token_ids(processor, size)
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(PLACEHOLDER) in banned
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in banned
    assert end_of_turn_id(processor) not in banned
    assert set(range(len(tokenizer), size)) <= set(banned)
    assert not set(tokenizer(ANSWER["value"])["input_ids"]) & set(banned)


def test_placeholders_must_not_be_sampled_even_where_the_tokenizer_does_not_call_them_special() -> None:
    class Tokenizer:
        added_tokens_decoder = MappingProxyType({7: SimpleNamespace(special=False), 8: SimpleNamespace(special=True)})
        eos_token_id = 2

        def __len__(self) -> int:
            return 10

    known: Any = SimpleNamespace(tokenizer=Tokenizer(), image_token_id=7, video_token_id=9)
    of_images: Any = SimpleNamespace(tokenizer=Tokenizer(), image_token_id=7, video_token_id=None)
    none: Any = SimpleNamespace(tokenizer=Tokenizer())
    assert [banned_token_ids(processor, 11) for processor in (known, of_images, none)] == [
        [7, 8, 9, 10],
        [7, 8, 10],
        [8, 10],
    ]


def test_a_folder_without_a_model_or_a_processor_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model: config\.json is missing"):
        load_processor(tmp_path)
    with pytest.raises(UserError, match=r"holds no model: config\.json is missing"):
        load_policy(ModelSettings(path=tmp_path))
    shutil.copy(tiny_model / "config.json", tmp_path)
    with pytest.raises(UserError, match="has no processor: copy"):
        load_processor(tmp_path)


def test_sequences_are_padded_on_the_right_and_their_first_token_is_never_trained() -> None:
    sequences = [TokenSequence([5, 6, 7], [True, False, True], 0), TokenSequence([8], [True], 1)]
    batch = collate(sequences, [PromptImages({"pixel_values": torch.zeros(4, 3)}, 1)] * 2, pad_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.trained.tolist() == [[False, False, True], [False, False, False]]
    assert batch.image_index.tolist() == [0, 1]
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.input_ids, moved.trained, moved.images["pixel_values"])} == {"meta"}


lengths_and_prompts = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), min_size=1, max_size=40)


@given(lengths_and_prompts, st.integers(1, 200), st.booleans())
def test_micro_batches_hold_every_sequence_once_within_the_budget(
    sequences: list[tuple[int, int]], budget: int, by_prompt: bool
) -> None:
    lengths, prompts = [length for length, _ in sequences], [prompt for _, prompt in sequences]
    cut = micro_batches(lengths, budget, prompts if by_prompt else None)
    assert sorted(position for positions in cut for position in positions) == list(range(len(lengths)))
    for positions in cut:
        assert len(positions) == 1 or len(positions) * max(lengths[position] for position in positions) <= budget


@given(lengths_and_prompts, st.integers(60, 400))
def test_sequences_of_a_prompt_stay_together_where_its_images_must_be_encoded_with_each(
    sequences: list[tuple[int, int]], budget: int
) -> None:
    lengths, prompts = [length for length, _ in sequences], [prompt for _, prompt in sequences]
    order = [prompts[position] for positions in micro_batches(lengths, budget, prompts) for position in positions]
    changes = sum(before != after for before, after in pairwise(order))
    assert changes == len(set(prompts)) - 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_shared_images_and_padding_change_no_log_probability(
    policy: Any, processor: Any, batch: VLMBatch, images: list[list[Image.Image]], temperature: float
) -> None:
    banned = banned_token_ids(processor, policy.config.get_text_config().vocab_size)
    with torch.no_grad():
        logprobs = PolicyScorer(policy, banned, temperature)(batch)
        expected = by_transformers(policy, batch, images, processor, temperature)
    assert logprobs.shape == (int(batch.trained.sum()),)
    assert torch.allclose(logprobs, expected, atol=1e-4)


def test_the_tower_sees_each_image_once_and_its_features_serve_every_batch(
    policy: Any, processor: Any, encoded: Any, rows: list[TokenSequence], batch: VLMBatch
) -> None:
    seen: list[int] = []
    hook = policy.model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    scorer, images = PolicyScorer(policy), encoded[1]
    patches = sum(len(own.tensors["pixel_values"]) for own in images)
    with torch.no_grad():
        together = scorer(batch)
        assert seen == [patches]
        features = scorer.image_features(batch.images, batch.image_counts)
        assert [len(own.tokens) for own in features] == [len(own.tensors["pixel_values"]) // 4 for own in images]
        assert len(features[0].levels) == 1  # the tiny model's DeepStack
        apart = [scorer(collate([row], images, processor.tokenizer.pad_token_id, features)) for row in rows]
    hook.remove()
    assert seen == [patches, patches]
    assert torch.allclose(torch.cat(apart), together, atol=1e-5)


def test_branches_of_a_prompt_score_as_if_each_followed_it_alone(
    policy: Any, processor: Any, encoded: Any, rows: list[TokenSequence], batch: VLMBatch
) -> None:
    scorer = PolicyScorer(policy)
    assert scorer.takes_branches
    packed, order = [], []
    for prompt in (0, 1):
        own = [row for row, sequence in enumerate(rows) if sequence.images == prompt]
        start = encoded[0][prompt].trained.index(True)
        answers = [rows[row].ids[start:] for row in own]
        ids = encoded[0][prompt].ids[:start] + [token for answer in answers for token in answer]
        branches = [0] * start + [number for number, answer in enumerate(answers, start=1) for _ in answer]
        packed.append(TokenSequence(ids, [branch > 0 for branch in branches], prompt, branches))
        order += own
    made = collate(packed, encoded[1], processor.tokenizer.pad_token_id)
    assert made.input_ids.numel() < 0.6 * batch.input_ids.numel()
    with torch.no_grad():
        together, apart = scorer(made), scorer(batch).split(batch.trained.sum(dim=1).tolist())
    assert torch.allclose(together, torch.cat([apart[row] for row in order]), atol=1e-5)


@pytest.mark.parametrize("kind", ["sliding_attention", "linear_attention"])
def test_a_model_with_other_than_full_attention_in_a_layer_gets_no_branches(kind: str, tiny_model: Path) -> None:
    model: Any = load_policy(ModelSettings(path=tiny_model))
    scorer = PolicyScorer(model)
    assert scorer.takes_branches
    model.config.get_text_config().layer_types = ["full_attention", kind]
    assert not scorer.takes_branches


def test_logits_are_formed_chunk_by_chunk_with_the_same_scores_and_gradients(
    tiny_model: Path, batch: VLMBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for chunk in (None, 5):
        torch.manual_seed(0)
        adapted: Any = load_policy(ModelSettings(path=tiny_model), vision="full").train().double()
        rows: list[int] = []
        adapted.lm_head.register_forward_hook(lambda *given, rows=rows: rows.append(len(given[-1])))
        if chunk is not None:
            monkeypatch.setattr("dermo_ray.models.policy._LOGITS_AT_ONCE", chunk * adapted.lm_head.out_features)
        scores = TokenScorer(adapted, banned=[3, 7])(batch)
        (scores[0] * torch.linspace(-1, 1, scores.shape[1])).sum().backward()
        gradient = torch.cat([w.grad.flatten() for w in adapted.parameters() if w.grad is not None])
        found.append((scores.detach(), gradient, rows))
    (whole, of_whole, once), (chunked, of_chunks, often) = found
    tokens = int(batch.trained.sum())
    assert (once, len(often)) == ([tokens], 2 * -(-tokens // 5))  # each twice: forward, and again backward
    assert max(often) <= 5
    assert torch.allclose(whole, chunked, atol=1e-6)
    assert (of_whole - of_chunks).norm() <= 1e-6 * of_whole.norm()


@pytest.mark.parametrize("train", [True, False])
def test_a_rank_forms_logits_as_often_as_any_other_even_with_nothing_to_train(
    train: bool, tiny_model: Path, batch: VLMBatch
) -> None:
    adapted: Any = load_policy(ModelSettings(path=tiny_model), vision="full").train()
    own = batch if train else untrained(batch)
    tokens = int(own.trained.sum())
    rows: list[int] = []
    adapted.lm_head.register_forward_hook(lambda *given: rows.append(len(given[-1])))
    scorer = TokenScorer(adapted)
    scorer.most = lambda chunks: max(chunks, 3)
    scores = scorer(own)
    scores[0].sum().backward()
    assert scores.shape == (2, tokens)
    assert len(rows) == 2 * 3  # forward, and again backward
    assert sum(rows) == 2 * tokens
    assert max(rows) - min(rows) <= 1


def test_the_image_matters(policy: Any, processor: Any, batch: VLMBatch, images: list[list[Image.Image]]) -> None:
    white = [[Image.new("RGB", image.size, "white") for image in shown] for shown in images]
    encoded = [encode_images(processor, shown).tensors for shown in white]
    blank = replace(batch, images={name: torch.cat([own[name] for own in encoded]) for name in encoded[0]})
    with torch.no_grad():
        assert (PolicyScorer(policy)(batch) - PolicyScorer(policy)(blank)).abs().max() > 1e-3


def test_conversations_encoded_together_are_as_each_alone(processor: Any, images: list[list[Image.Image]]) -> None:
    again = {"from": "human", "value": "and now?"}
    conversations = [
        ("one", [QUESTION, ANSWER, again, ANSWER], images[0]),
        ("two", [PAIR, ANSWER], images[1]),
        ("several", [QUESTION, ANSWER, PAIR, ANSWER], images[0] + images[1]),
    ]
    together = encode_conversations(processor, conversations)
    alone = [encode_conversations(processor, [conversation])[0] for conversation in conversations]
    assert [shown.count for _, shown in together] == [1, 2, 3]
    for position, (sequence, shown) in enumerate(together):
        same, own = alone[position]
        assert sequence == replace(same, images=position)
        assert shown.tensors.keys() == own.tensors.keys()
        assert all(torch.equal(shown.tensors[name], own.tensors[name]) for name in own.tensors)


def test_images_and_their_marks_must_be_as_many(
    tmp_path: Path, processor: Any, images: list[list[Image.Image]]
) -> None:
    with pytest.raises(UserError, match="conversation two: it shows <image> 2 times and has 1 images"):
        encode_conversations(processor, [("two", [PAIR, ANSWER], images[0])])
    images[0][0].save(tmp_path / "a.png")
    with pytest.raises(UserError, match="prompt p1 shows <image> 2 times and has 1 images"):
        refuse_long_prompts(processor, [rl_prompt(PAIR)], tmp_path, 8, 4096)


def rl_prompt(turn: dict[str, str], *further: str) -> RLPrompt:
    truth = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
    return RLPrompt(
        id="p1",
        image="a.png",
        further_images=list(further),
        source="s",
        group="g",
        prompt=turn["value"],
        ground_truth=truth,
    )


def test_a_prompt_that_leaves_no_room_for_its_completions_is_named(
    tmp_path: Path, processor: Any, images: list[list[Image.Image]]
) -> None:
    for name, image in zip("ab", images[1], strict=True):
        image.save(tmp_path / f"{name}.png")
    prompt = rl_prompt(PAIR, "b.png")
    length = prompt_length(processor, PAIR["value"], [image.size for image in images[1]])
    refuse_long_prompts(processor, [prompt], tmp_path, 8, length + 8)
    with pytest.raises(
        UserError, match=rf"^prompt p1 has {length} tokens, and with rollout\.max_tokens=8 that is more"
    ):
        refuse_long_prompts(processor, [prompt], tmp_path, 8, length + 7)
    with pytest.raises(UserError, match=r"prompt p1: its image c\.png can't be read"):
        refuse_long_prompts(processor, [rl_prompt(PAIR, "c.png")], tmp_path, 8, 4096)


def test_probability_goes_to_tokens_that_may_be_sampled_alone(policy: Any, processor: Any, batch: VLMBatch) -> None:
    vocabulary_size = policy.config.get_text_config().vocab_size
    allowed = [5, 100]
    banned = [token for token in range(vocabulary_size) if token not in allowed]
    scorer = PolicyScorer(policy, banned)
    with torch.no_grad():
        probabilities = scorer.logits(scorer.predicting(batch)).softmax(-1)
    assert probabilities[:, banned].abs().max() == 0
    assert torch.allclose(probabilities[:, allowed].sum(-1), torch.ones(len(probabilities)), atol=1e-6)


@pytest.mark.parametrize(
    ("vision", "lora", "tower"),
    [("frozen", None, set()), ("full", None, {"whole"}), ("frozen", 8, set()), ("lora", 8, {"adapter"})],
)
def test_the_vision_tower_is_trained_as_the_settings_say(
    vision: Any, lora: int | None, tower: set[str], tiny_model: Path
) -> None:
    policy = load_policy(ModelSettings(path=tiny_model), None if lora is None else LoraSettings(rank=8), vision=vision)
    names = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert {"adapter" if "lora_" in name else "whole" for name in names if ".visual." in f".{name}"} == tower
    assert any(".language_model." in name for name in names)


def test_a_fresh_adapter_sits_on_the_language_model_and_changes_nothing(
    tiny_model: Path, policy: Any, batch: VLMBatch
) -> None:
    fresh = load_policy(ModelSettings(path=tiny_model), LoraSettings(rank=8))
    trained = [name for name, weight in fresh.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name and ".language_model." in name for name in trained)
    assert len({name.split(".lora_")[0].rpartition(".")[2] for name in trained}) == 7
    with torch.no_grad():
        assert torch.allclose(PolicyScorer(fresh.eval())(batch), PolicyScorer(policy)(batch), atol=1e-6)


def test_an_adapter_comes_back_from_its_folder_ready_to_train_on(
    tiny_model: Path, tiny_adapter: Path, policy: Any, batch: VLMBatch
) -> None:
    adapted = load_policy(ModelSettings(path=tiny_model), adapter=tiny_adapter)
    logprobs = PolicyScorer(adapted)(batch)
    with torch.no_grad():
        assert (logprobs - PolicyScorer(policy)(batch)).abs().max() > 1e-2
    logprobs.sum().backward()
    gradients = {name: weight.grad for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert gradients
    assert all("lora_" in name for name in gradients)


def test_recomputing_activations_changes_no_gradient(tiny_model: Path, batch: VLMBatch) -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        settings = ModelSettings(path=tiny_model, gradient_checkpointing=recompute)
        adapted = load_policy(settings, LoraSettings(rank=8)).train()
        PolicyScorer(adapted)(batch).sum().backward()
        gradients.append(torch.cat([w.grad.flatten() for w in adapted.parameters() if w.grad is not None]))
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_adapter_targets_that_name_no_layer_are_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="no linear layer of the language model is called qkv or c_attn"):
        load_policy(ModelSettings(path=tiny_model), LoraSettings(targets=["qkv", "c_attn"]))
