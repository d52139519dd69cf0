"""Weights that change in place: engines that go on with other ones, and whole runs that train the model itself."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_cases import move
from PIL import Image
from transformers import AutoModelForImageTextToText

from actors.adapters import Adapter, FullWeights, Published, publish
from actors.engine_process import start_engine
from actors.messages import Sampled, Sampling
from actors.validation import VALIDATION
from dermo_ray import checkpoints, rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.config.pools import EngineSettings
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.models.batches import TokenSequence, collate, encode_images
from dermo_ray.models.chat import banned_token_ids, load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy

ENGINE = {"max_model_len": 512, "max_num_seqs": 8, "cpu_kv_cache_gib": 0.1, "enforce_eager": True}
UPDATES, GROUPS, GROUP_SIZE = 4, 4, 4


@pytest.fixture(scope="module")
def versions(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Published]:
    """The tiny model as version 0, every weight a little further on as version 1, and two adapters on the latter."""
    folder = tmp_path_factory.mktemp("versions")
    model = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    published: list[Published] = [publish(folder, 0, model.save_pretrained, FullWeights)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    published.append(publish(folder, 1, model.save_pretrained, FullWeights))
    policy: Any = load_policy(ModelSettings(path=published[1].path), LoraSettings(rank=8, alpha=4), vision="lora")
    for version in (2, 3):
        move(policy, generator)
        published.append(publish(folder, version, policy.save_pretrained, Adapter))
    return published


def scores(
    versions: list[Published], version: int, base: Path, prompt_ids: list[int], completion: Sampled, image: Image.Image
) -> list[float]:
    """Log-probability of each token by one of `versions`, as the learners compute it."""
    processor = load_processor(base)
    whole, adapter = (versions[1], versions[version].path) if version > 1 else (versions[version], None)
    model: Any = load_policy(ModelSettings(path=whole.path), adapter=adapter).eval()
    scorer = PolicyScorer(model, banned_token_ids(processor, model.get_output_embeddings().weight.shape[0]))
    ids = prompt_ids + completion.token_ids
    sequence = TokenSequence(ids, [False] * len(prompt_ids) + [True] * len(completion.token_ids), 0)
    batch = collate([sequence], [encode_images(processor, [image])], processor.tokenizer.pad_token_id)
    with torch.no_grad():
        found: list[float] = scorer(batch).tolist()
    return found


def test_an_engine_whose_weights_change_under_a_completion_knows_which_token_came_from_which(
    tiny_model: Path, versions: list[Published]
) -> None:
    image = Image.new("RGB", (64, 64), (180, 120, 110))
    sampling = Sampling(n=2, temperature=1.0, max_tokens=400, seed=3)

    async def run() -> tuple[list[str], list[tuple[list[int], list[Sampled]]]]:
        engine = start_engine(ModelSettings(path=tiny_model), EngineSettings.model_validate(ENGINE), None, on_gpu=False)
        try:
            found, answers = [await engine.load(versions[0])], []
            for weights in versions[1:]:
                before = engine.generate("<image>\nName it.", [image], sampling, engine.version)
                under_way = asyncio.ensure_future(before)
                await asyncio.sleep(0.3)
                found.append(await engine.load(weights))
                answers.append(await under_way)
            answers.append(await engine.generate("<image>\nName it.", [image], sampling, 3))
            moved = FullWeights(4, versions[1].path, versions[0].checksum)
            with pytest.raises(RuntimeError, match="has checksum"):
                await engine.load(moved)
            assert engine.version == 3
            return found, answers
        finally:
            engine.close()

    found, answers = asyncio.run(run())
    assert found == [weights.checksum for weights in versions]
    for begun, (ids, completions) in enumerate(answers):
        expected = {begun, min(begun + 1, 3)}
        spanning = [completion for completion in completions if set(completion.versions) == expected]
        assert spanning, f"no completion was under way when version {begun + 1} came"
        completion = spanning[0]
        assert completion.versions == sorted(completion.versions)
        assert len(completion.versions) == len(completion.token_ids)
        by_version = {version: scores(versions, version, tiny_model, ids, completion, image) for version in expected}
        for place, (version, logprob) in enumerate(zip(completion.versions, completion.logprobs, strict=True)):
            assert by_version[version][place] == pytest.approx(logprob, abs=2e-3)


@pytest.fixture(scope="module")
def data(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of phantoms."""
    from jobs import prepare

    out = tmp_path_factory.mktemp("whole") / "data"
    prepare.run(
        PrepareConfig.model_validate(
            {
                "source": "phantoms",
                "count": 60,
                "out": out,
                "prompts": "brief",
                "phantom": {"size": 64},
                "split": {"val": 0.2, "test": 0.1},
            }
        )
    )
    return out


def mavic_settings(run: Path, data: Path, model: Path, **values: Any) -> MavicConfig:
    common: dict[str, Any] = {
        "run": run,
        "data": data,
        "model": {"path": model},
        "lora": None,
        "steps": UPDATES,
        "batch_groups": GROUPS,
        "max_staleness": 1,
        "checkpoint_every": 2,
        "rollout": {
            "cpus_per_worker": 0.4,
            "group_size": GROUP_SIZE,
            "max_tokens": 40,
            "max_concurrent": 2 * GROUPS,
            "engine": ENGINE,
        },
        "rewards": {"cpus_per_worker": 0.1},
        "learner": {
            "workers": 2,
            "cpus_per_worker": 0.4,
            "optimizer": {"learning_rate": 1e-4},
            "sharding": {"zero_stage": 3},
        },
    }
    return MavicConfig.model_validate(common | values)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains the model itself under ZeRO-3, asynchronously, with validations."""
    from jobs import mavic

    run = tmp_path_factory.mktemp("whole-run") / "run"
    validation = {"every": 2, "prompts": 3, "samples": 2}
    mavic.run(mavic_settings(run, data, tiny_model, validation=validation))
    return run


@pytest.mark.slow
def test_a_run_without_an_adapter_trains_and_publishes_the_model_itself(whole_run: Path, tiny_model: Path) -> None:
    metrics = metrics_of(whole_run)
    assert [entry["step"] for entry in metrics] == [1, 2, 3, 4]
    on_policy = [entry for entry in metrics if entry["staleness/max"] == 0]
    assert on_policy[0]["rollout_logprob_diff"] <= 1e-3
    model = whole_run / "checkpoints" / "latest" / "model"
    trained = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    start = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    pairs = zip(trained.named_parameters(), start.parameters(), strict=True)
    moved = {name: not torch.equal(after, before) for (name, after), before in pairs}
    assert moved == {name: not name.startswith("model.visual.") for name in moved}  # the vision tower is frozen
    load_processor(model)
    rows = rollouts.read(whole_run / "rollouts")
    for row in rows:
        assert row.token_versions is not None
        assert row.version == min(row.token_versions)
        assert row.step - row.version <= 1
    assert {row.version for row in rollouts.read(whole_run / VALIDATION)} <= {0, 2, 4}
    assert [entry["validation/version"] for entry in metrics if "validation/version" in entry] == [0, 2, 4]


@pytest.mark.slow
def test_a_run_whose_engines_merge_adapters_trains_on_what_its_learners_publish(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from jobs import mavic

    settings = mavic_settings(tmp_path / "run", data, tiny_model, max_staleness=0).model_dump(exclude_unset=True)
    settings["rollout"]["merge_adapters"] = True
    settings["learner"]["optimizer"]["learning_rate"] = 1e-2
    settings |= {"lora": {"rank": 8, "alpha": 8}, "validation": {"every": 2, "prompts": 3, "samples": 2}}
    mavic.run(MavicConfig.model_validate(settings))
    metrics = metrics_of(tmp_path / "run")
    assert [entry["validation/version"] for entry in metrics if "validation/version" in entry] == [0, 2, 4]
    assert any(entry["grad_norm"] > 0 for entry in metrics[:-1]), "nothing was learned, so nothing was merged"
    assert [entry["step"] for entry in metrics if entry["engine_gap"] <= 1e-3] == [1, 2, 3, 4]
    assert (tmp_path / "run/checkpoints/latest/adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_its_busy_time_and_waits_add_up(whole_run: Path) -> None:
    for entry in metrics_of(whole_run):
        for pool in ("rollout", "reward", "learner"):
            shares = [value for name, value in entry.items() if name.startswith(f"share/{pool}/")]
            assert sum(shares) == pytest.approx(1.0)
        assert entry["share/learner/busy"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train_only", "replay"])
def test_its_rollouts_can_be_trained_on_again(
    mode: str, whole_run: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from jobs import mavic

    again = {"mode": mode, "replay_from": whole_run / "rollouts", "steps": 2}
    reward = {"tau": 1.0, "weights": {"format": 5.0}} if mode == "replay" else {}
    mavic.run(mavic_settings(tmp_path / "run", data, tiny_model, reward=reward, **again))
    before, after = rollouts.read(whole_run / "rollouts"), rollouts.read(tmp_path / "run" / "rollouts")
    assert len(after) == 2 * GROUPS * GROUP_SIZE
    for old, new in zip(before, after, strict=False):
        assert (new.prompt_id, new.token_ids, new.token_logprobs) == (old.prompt_id, old.token_ids, old.token_logprobs)
        assert (new.reward == old.reward) or mode == "replay"
    first, once = metrics_of(tmp_path / "run")[0], metrics_of(whole_run)[0]
    assert first["rollout_logprob_diff"] == pytest.approx(once["rollout_logprob_diff"], abs=1e-4)
    if mode == "train_only":
        assert first["loss"] == pytest.approx(once["loss"], abs=1e-5)
        assert first["grad_norm"] == pytest.approx(once["grad_norm"], rel=1e-3)
    else:
        assert all(new.weights != old.weights for old, new in zip(before, after, strict=False))
    assert checkpoints.latest(tmp_path / "run" / "checkpoints") is not None


@pytest.mark.slow
def test_a_run_without_learners_leaves_a_dump(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    from jobs import mavic

    mavic.run(mavic_settings(tmp_path / "run", data, tiny_model, mode="rollout_only", steps=2))
    rows = rollouts.read(tmp_path / "run" / "rollouts")
    assert len(rows) == 2 * GROUPS * GROUP_SIZE
    assert {row.version for row in rows} == {0}
    assert all(row.token_ids for row in rows)
