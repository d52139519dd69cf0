"""Adapters folded into their base."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from dermo_ray.config.merge import MergeConfig
from dermo_ray.errors import UserError
from dermo_ray.models.chat import load_processor
from dermo_ray.models.merging import OTHER_WEIGHTS
from jobs import merge


def load(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def settings(model: Path, adapter: Path, out: Path) -> MergeConfig:
    return MergeConfig.model_validate({"model": {"path": model}, "adapter": adapter, "out": out})


def test_a_merged_model_says_what_base_and_adapter_said_together(
    tiny_model: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    merge.run(settings(tiny_model, tiny_adapter, tmp_path / "whole"))
    ids = torch.arange(20, 40).unsqueeze(0)
    together = PeftModel.from_pretrained(load(tiny_model), tiny_adapter)
    with torch.no_grad():
        expected, base = together(input_ids=ids).logits, load(tiny_model)(input_ids=ids).logits
        found = load(tmp_path / "whole")(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, base, atol=1e-2)
    before, after = (load_processor(folder).tokenizer for folder in (tiny_model, tmp_path / "whole"))
    assert after.get_vocab() == before.get_vocab()


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_whole_weights_beside_an_adapter_are_put_in(
    prefix: str, tiny_model: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "released"
    shutil.copytree(tiny_adapter, adapter)
    name = next(name for name in load(tiny_model).state_dict() if "visual" in name and name.endswith("bias"))
    torch.save({f"{prefix}{name}": torch.full_like(load(tiny_model).state_dict()[name], 7)}, adapter / OTHER_WEIGHTS)
    merge.run(settings(tiny_model, adapter, tmp_path / "whole"))
    assert load(tmp_path / "whole").state_dict()[name].unique().tolist() == [7]


def test_what_does_not_fit_the_base_is_named(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no adapter: adapter_config\.json is missing"):
        merge.run(settings(tiny_model, tmp_path, tmp_path / "out"))
    adapter = tmp_path / "released"
    shutil.copytree(tiny_adapter, adapter)
    torch.save({"visual.extra": torch.zeros(3)}, adapter / OTHER_WEIGHTS)
    with pytest.raises(UserError, match=r"does not fit the model: it has no visual\.extra \[3\]"):
        merge.run(settings(tiny_model, adapter, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
