"""An adapter folded into weights as vLLM reads them is what PEFT makes of the two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from learner_cases import move
from safetensors.torch import load_file
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

from actors.merging import merged
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.models.policy import load_policy

CPU = torch.device("cpu")


def adapter_on(model: Path, folder: Path) -> Any:
    """A policy with an adapter on language model and vision tower that changes both, saved in `folder`."""
    policy: Any = load_policy(ModelSettings(path=model), LoraSettings(rank=8, alpha=4), vision="lora")
    move(policy, torch.Generator().manual_seed(0))
    policy.save_pretrained(folder)
    return policy


def test_merged_weights_are_those_that_peft_makes(tiny_model: Path, tmp_path: Path) -> None:
    policy = adapter_on(tiny_model, tmp_path / "adapter")
    base = load_file(tiny_model / "model.safetensors")
    mapper = Qwen3VLForConditionalGeneration.hf_to_vllm_mapper
    found = dict(merged(base.items(), tmp_path / "adapter", mapper, CPU))
    policy.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = load_file(tmp_path / "merged/model.safetensors")
    assert found.keys() == base.keys() >= expected.keys()
    changed = {name for name in expected if not torch.equal(expected[name], base[name])}
    assert any("visual" in name for name in changed)
    assert any("language_model" in name for name in changed)
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, atol=1e-6), name


def test_a_layer_that_the_model_lacks_is_named_and_types_stay(tiny_model: Path, tmp_path: Path) -> None:
    adapter_on(tiny_model, tmp_path)
    base = {name: weight.bfloat16() for name, weight in load_file(tiny_model / "model.safetensors").items()}
    mapper = Qwen3VLForConditionalGeneration.hf_to_vllm_mapper
    assert {weight.dtype for _, weight in merged(base.items(), tmp_path, mapper, CPU)} == {torch.bfloat16}
    missing = next(name for name in base if name.endswith("layers.0.self_attn.q_proj.weight"))
    del base[missing]
    with pytest.raises(RuntimeError, match=r"changes layers that the model does not have: .*layers\.0\.self_attn"):
        list(merged(base.items(), tmp_path, mapper, CPU))
