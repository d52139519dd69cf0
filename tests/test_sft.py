"""Supervised fine-tuning end to end: two ranks on phantoms, adapters and all weights, resume and ZeRO stages."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from dermo_ray import checkpoints
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.conversations import Conversations, batch_indices
from dermo_ray.errors import UserError
from dermo_ray.metrics import METRICS
from dermo_ray.models.chat import load_processor
from dermo_ray.models.supervised import TokenScorer, encode
from dermo_ray.models.symmetries import batch_symmetries
from dermo_ray.report.metrics import read_metrics
from jobs import prepare, sft

STEPS = 4
FORMATS = {"diagnosis": 0, "morph_reasoning": 1}


@pytest.fixture(scope="module")
def data(ray_cluster, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sft-data") / "data"
    prepare.run(
        PrepareConfig(
            source="phantoms",
            count=80,
            out=out,
            prompts="brief",
            formats=["diagnosis", "morph_reasoning"],
            phantom={"size": 64},
            split={"val": 0.15, "test": 0},
        )
    )
    return out


@pytest.fixture(scope="module")
def settings(data, tiny_model, tmp_path_factory):
    """Makes the settings of a run of four updates on two ranks."""

    def make(name: str, **values) -> SftConfig:
        common = {
            "run": tmp_path_factory.mktemp("runs") / name,
            "data": data,
            "model": {"path": tiny_model},
            "vision": "frozen" if values.get("lora") else "full",
            "optimizer": {"learning_rate": 1e-4},  # Adam magnifies rounding where gradients cancel; little of it here
            "sharding": {"micro_batch_tokens": 400},
            "pool": {"workers": 2},
            "steps": STEPS,
            "augment": True,
            "batch_size": 11,
            "validation": {"every": 0},
            "checkpoint_every": 2,
        }
        return SftConfig.model_validate(common | values)

    return make


@pytest.fixture(scope="module")
def straight(settings) -> SftConfig:
    """A finished run that was never stopped."""
    config = settings("straight", validation={"every": 2, "records": 5})
    sft.run(config)
    return config


def weights(config: SftConfig, step: int = STEPS) -> dict[str, torch.Tensor]:
    checkpoint = config.run / "checkpoints" / checkpoints.step_name(step)
    return load_file(min(checkpoint.glob("*/*model.safetensors")))  # the adapter's, where there is one


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_the_loss_falls_and_the_metrics_are_complete(straight):
    series = read_metrics(straight.run / METRICS)
    assert series["loss"].steps.tolist() == [1, 2, 3, 4]
    assert series["loss"].values[-1] < series["loss"].values[0] - 0.05
    assert series["val_loss"].steps.tolist() == [2, 4]
    assert series["val_loss"].values[1] < series["val_loss"].values[0]
    assert {
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "samples_per_second",
        "epoch",
        "padding",
    } <= series.keys()
    assert {f"val_loss/{name}" for name in FORMATS} <= series.keys()
    assert list((straight.run / "tensorboard").iterdir())


def test_the_checkpoint_is_a_model_that_transformers_loads(straight, tiny_model):
    checkpoint = checkpoints.latest(straight.run / "checkpoints")
    state = checkpoints.read_state(checkpoint)
    assert state["step"] == state["version"] == STEPS
    model = AutoModelForImageTextToText.from_pretrained(checkpoint / "model")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    start = AutoModelForImageTextToText.from_pretrained(tiny_model)
    changed = {name for name, weight in start.state_dict().items() if not weight.equal(model.state_dict()[name])}
    assert any("language_model" in name for name in changed)
    assert any("visual" in name for name in changed)
    assert load_processor(checkpoint / "model").tokenizer.eos_token_id == model.generation_config.eos_token_id[0]


def test_the_reported_losses_are_those_of_one_process(straight, data, tiny_model):
    conversations = Conversations(data, "train")
    processor = load_processor(tiny_model)
    model = TokenScorer(AutoModelForImageTextToText.from_pretrained(tiny_model))
    first = [conversations[index] for index in batch_indices(len(conversations), straight.batch_size, 0, 0)]
    turns = batch_symmetries(straight.batch_size, 0, 0)
    (lesson,) = encode(processor, first, token_budget=10**6, max_length=4096, formats=FORMATS, symmetries=turns)
    with torch.no_grad():
        logprobs, hits = model(lesson.batch)
    reported = {name: series.values[0] for name, series in read_metrics(straight.run / METRICS).items()}
    assert reported["loss"] == pytest.approx(-float(logprobs.mean()), rel=1e-5)
    assert reported["accuracy"] == pytest.approx(float(hits.mean()))
    for name, position in FORMATS.items():
        of_format = lesson.token_formats == position
        assert reported[f"loss/{name}"] == pytest.approx(-float(logprobs[of_format].mean()), rel=1e-5)
        assert reported[f"accuracy/{name}"] == pytest.approx(float(hits[of_format].mean()))


def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(straight, settings):
    config = settings("resumed")
    shutil.copytree(straight.run, config.run, symlinks=True)
    shutil.rmtree(config.run / "checkpoints" / checkpoints.step_name(4))
    (config.run / "checkpoints" / "latest").unlink()
    (config.run / "checkpoints" / "latest").symlink_to(checkpoints.step_name(2))
    sft.run(config)
    assert largest_difference(weights(straight), weights(config)) < 1e-6
    steps = [json.loads(line)["step"] for line in (config.run / METRICS).read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_sigterm_ends_a_run_with_a_checkpoint_from_which_it_goes_on(settings):
    config = settings("stopped", steps=1000, checkpoint_every=1000)

    def terminate() -> None:
        while not (config.run / METRICS).exists() or not (config.run / METRICS).read_text():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        sft.run(config)
    assert ended.value.code == 0
    latest = checkpoints.latest(config.run / "checkpoints")
    assert latest is not None
    done = checkpoints.read_state(latest)["step"]
    assert done == len((config.run / METRICS).read_text().splitlines()) < 1000
    sft.run(config.model_copy(update={"steps": done + 1}))
    assert checkpoints.latest(config.run / "checkpoints").name == checkpoints.step_name(done + 1)


def test_a_finished_run_has_nothing_left_to_do_and_another_may_not_take_its_place(straight, capsys):
    sft.run(straight)
    assert "4 updates done" in capsys.readouterr().out
    with pytest.raises(UserError, match="has a run of 4 updates"):
        sft.run(straight.model_copy(update={"resume": False}))
    with pytest.raises(UserError, match=r"two runs in one run directory.*seed=0, not 1"):
        sft.run(straight.model_copy(update={"seed": 1}))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_sharded_ranks_end_with_the_weights_of_replicated_ones(stage, straight, settings):
    config = settings(f"zero{stage}", sharding={"zero_stage": stage, "micro_batch_tokens": 400}, steps=2)
    sft.run(config)
    assert largest_difference(weights(straight, step=2), weights(config, step=2)) < 1e-5


def test_an_adapter_is_trained_alone_and_opens_in_peft(settings, tiny_model):
    config = settings("adapter", lora={"rank": 8, "alpha": 16, "dropout": 0.1}, optimizer={"learning_rate": 1e-2})
    sft.run(config)
    losses = read_metrics(config.run / METRICS)["loss"].values
    assert losses[-1] < losses[0] - 0.1
    base = AutoModelForImageTextToText.from_pretrained(tiny_model)
    checkpoint = checkpoints.latest(config.run / "checkpoints")
    model = PeftModel.from_pretrained(base, checkpoint / "adapter")
    trained = {name: weight for name, weight in model.named_parameters() if "lora_B" in name}
    assert len(trained) == len([name for name in weights(config) if "lora_B" in name])
    assert all(weight.abs().max() > 0 for weight in trained.values())
    assert not any("visual" in name for name in trained)
    merged = AutoModelForImageTextToText.from_pretrained(checkpoint / "model").state_dict()
    for name, weight in model.merge_and_unload().state_dict().items():
        assert torch.allclose(weight, merged[name], atol=1e-6)
    assert not (checkpoint.parent / checkpoints.step_name(2) / "model").exists()
    load_processor(checkpoint / "model")


TOO_LONG = r"^conversation morph_reasoning_\S+ has \d+ tokens and max_length is 20: .*$"


def test_a_conversation_that_is_too_long_is_named_on_one_line(data, tiny_model):
    conversations = Conversations(data, "train")
    chosen = [c for c in map(conversations.__getitem__, range(len(conversations))) if c.format == "morph_reasoning"]
    with pytest.raises(UserError, match=TOO_LONG):
        encode(load_processor(tiny_model), chosen, token_budget=300, max_length=20, formats=FORMATS)


@pytest.mark.slow
def test_what_a_rank_finds_too_long_ends_the_job_with_that_line(settings):
    with pytest.raises(UserError, match=TOO_LONG):
        sft.run(settings("long", max_length=20, pool={"workers": 1}))


def test_more_resources_than_the_cluster_has_are_refused_with_both_numbers(settings):
    with pytest.raises(UserError, match=r"6 CPUs are asked for \(pool 6\) and the cluster has 2"):
        sft.run(settings("large", pool={"workers": 3, "cpus_per_worker": 2}))


def test_without_prepared_data_nothing_starts(settings, tmp_path):
    with pytest.raises(UserError, match="no prepared folder"):
        sft.run(settings("nothing", data=tmp_path))


def test_only_the_assistant_and_its_end_of_turn_are_trained_on(data, tiny_model):
    conversations = Conversations(data, "train")
    processor = load_processor(tiny_model)
    chosen = [conversations[index] for index in range(len(conversations) - 7, len(conversations))]
    lessons = encode(processor, chosen, token_budget=300, max_length=512, formats=FORMATS)
    assert len(lessons) > 1
    assert all(lesson.batch.input_ids.numel() <= 300 for lesson in lessons)
    said = []
    for batch in (lesson.batch for lesson in lessons):
        for ids, trained in zip(batch.input_ids, batch.trained, strict=True):
            assert ids[trained][-1] == processor.tokenizer.eos_token_id
            said.append(processor.tokenizer.decode(ids[trained][:-1]))
    assert sorted(said) == sorted(conversation.turns[1]["value"] for conversation in chosen)
    assert not lessons[0].untrained.batch.trained.any()


def test_a_mixture_with_a_format_that_the_data_lack_is_refused(settings):
    with pytest.raises(
        UserError, match="no conversation has the format hierarchy; there are diagnosis, morph_reasoning"
    ):
        sft.run(settings("mixed", mixture={"diagnosis": 1, "hierarchy": 2}))
