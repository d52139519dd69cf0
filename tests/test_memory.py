"""Memory by pool: the published architectures, the settings that ship, and activations against what autograd keeps."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dermo_ray.config import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError
from dermo_ray.memory import GPUS, PUBLISHED, memory_report
from dermo_ray.memory.architecture import architecture_of
from dermo_ray.memory.pools import saved_by_layer
from dermo_ray.models.policy import load_policy

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize(
    ("name", "billions", "adapter"),
    # what the model cards say; LoRA r = 64: 64 (inputs + outputs) over the seven projections of every layer
    [
        ("qwen3-vl-2b", 2.1, 28 * 64 * (2 * 4096 + 2 * 3072 + 3 * 8192)),
        ("qwen3-vl-4b", 4.4, 36 * 64 * (2 * 6656 + 2 * 3584 + 3 * 12288)),
        ("qwen3-vl-8b", 8.8, 36 * 64 * (2 * 8192 + 2 * 5120 + 3 * 16384)),
    ],
)
def test_a_published_architecture_has_the_parameters_of_its_model_card(
    name: str, billions: float, adapter: int
) -> None:
    sizes = architecture_of(PUBLISHED[name], LoraSettings(rank=64), "frozen")
    assert sizes.parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert sizes.adapter == sizes.trained == adapter


@pytest.mark.parametrize(
    ("file", "gpu"),
    [
        ("cluster/mavic-qwen3vl-8b.yaml", "H100"),
        ("cluster/sft-qwen3vl-8b.yaml", "H100"),
        ("one-gpu/mavic-qwen3vl-2b.yaml", "L4"),
        ("one-gpu/sft-qwen3vl-2b.yaml", "L4"),
        ("one-gpu/mavic-qwen3vl-4b.yaml", "L40S"),
        ("one-gpu/sft-qwen3vl-4b.yaml", "L40S"),
    ],
)
def test_the_settings_that_ship_fit_the_gpu_they_name(file: str, gpu: str) -> None:
    model: Any = SftConfig if "/sft" in file else MavicConfig
    config = load(model, CONFIGS / file)
    report = memory_report(config, gpu, PUBLISHED[Path(file).stem.partition("-")[2].replace("qwen3vl", "qwen3-vl")])
    assert report.problems == []
    assert len(report.lines) == (1 if model is SftConfig else 2)
    for pool in report.pools:
        assert sum(pool.parts.values()) == pytest.approx(pool.claimed)
        assert {"weights", "adapter", "activations", "logits"} <= pool.parts.keys()


def sft(**values: Any) -> SftConfig:
    given = {"run": "r", "data": "d", "model": {"path": "m", "dtype": "bfloat16"}, "pool": {"gpus_per_worker": 1}}
    return SftConfig.model_validate(given | values)


def test_what_does_not_fit_is_one_line_with_both_numbers() -> None:
    (problem,) = memory_report(sft(vision="full"), "L4", PUBLISHED["qwen3-vl-8b"]).problems
    assert re.match(r"pool needs \d{3}\.\d GiB and has 22\.4 of one L4: take a larger GPU", problem)


def test_an_engine_needs_room_for_one_sequence_and_sharers_of_a_gpu_are_added_up() -> None:
    config = load(MavicConfig, CONFIGS / "one-gpu/mavic-qwen3vl-4b.yaml")
    (too_small, *_) = memory_report(config, "T4", PUBLISHED["qwen3-vl-4b"]).problems
    assert too_small.startswith("rollout needs")
    greedy = load(MavicConfig, CONFIGS / "one-gpu/mavic-qwen3vl-4b.yaml", ["rollout.engine.gpu_memory_utilization=0.9"])
    (together,) = memory_report(greedy, "L40S", PUBLISHED["qwen3-vl-4b"]).problems
    assert "GiB together take" in together
    assert "rollout.engine.gpu_memory_utilization" in together


def test_sharding_divides_what_its_stage_shards() -> None:
    def parts(stage: int, workers: int, dtype: str = "float32") -> dict[str, float]:
        config = sft(
            model={"path": "m", "dtype": dtype},
            sharding={"zero_stage": stage},
            pool={"gpus_per_worker": 1, "workers": workers},
        )
        return dict(memory_report(config, "H100", PUBLISHED["qwen3-vl-2b"]).pools[0].parts)

    whole, optimizer, gradients, weights = (parts(stage, 8) for stage in (0, 1, 2, 3))
    assert whole == parts(0, 1)
    assert optimizer["optimizer"] == pytest.approx(whole["optimizer"] / 8)
    assert optimizer["gradients"] == whole["gradients"]
    assert parts(0, 8, "bfloat16") == parts(1, 8, "bfloat16") == parts(2, 8, "bfloat16")
    assert parts(2, 1, "bfloat16")["gradients"] > parts(2, 8, "bfloat16")["gradients"]
    assert gradients["weights"] == whole["weights"]
    assert weights["weights"] == pytest.approx(whole["weights"] / 8)


def test_an_unknown_gpu_and_a_folder_without_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no figures for the GPU K80: there are V100, T4, "):
        memory_report(sft(), "K80", PUBLISHED["qwen3-vl-2b"])
    with pytest.raises(UserError, match=r"config\.json is missing"):
        memory_report(sft(model={"path": tmp_path}), "H100")
    assert GPUS["H100"] == pytest.approx(74.5, abs=0.1)


def test_the_activations_of_a_layer_are_those_that_autograd_keeps(tiny_model: Path) -> None:
    lora = LoraSettings(rank=8)
    policy: Any = load_policy(ModelSettings(path=tiny_model), lora).train()
    language_model: nn.Module = policy.get_base_model().model.language_model
    sizes = architecture_of(policy.config.to_dict(), lora, "frozen")
    weights = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embedded = torch.randn(2, 128, sizes.width, requires_grad=True)
    mask = torch.ones(2, 128, dtype=torch.long)
    mask[1, 100:] = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = language_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
    assert result is not None
    by_layer = sum(kept.values()) / sizes.layers / embedded[..., 0].numel()
    assert saved_by_layer(sizes, 4) == pytest.approx(by_layer, rel=0.2)
