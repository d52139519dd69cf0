"""What `jobs.mavic` refuses by what the data hold, before any worker starts."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from fake_pools import record, settings
from PIL import Image

from dermo_ray.errors import UserError
from dermo_ray.records import RLPrompt
from jobs import mavic, preflight


def test_a_held_out_prompt_that_leaves_no_room_for_its_completions_is_named_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    long = record(1).model_copy(update={"id": "long", "prompt": "<image>\n" + "Name it. " * 400})

    def prompts(data: Path, split: str, sources: None) -> list[RLPrompt]:
        return [record(0)] if split == "train" else [record(2), long]

    async def train(*_: object) -> bool:
        raise AssertionError("the run began")

    monkeypatch.setattr("actors.mavic.train", train)
    monkeypatch.setattr(mavic, "read_prompts", prompts)
    monkeypatch.setattr(mavic, "ray_session", nullcontext)
    monkeypatch.setattr(preflight, "ensure", lambda *_: None)
    config = settings(
        tmp_path / "run",
        data=tmp_path,
        model={"path": tiny_model},
        validation={"every": 1},
        rollout={"max_tokens": 8, "engine": {"max_model_len": 512}},
    )
    with pytest.raises(UserError, match=r"^prompt long has \d+ tokens, and with rollout\.max_tokens=8 "):
        mavic.run(config)
