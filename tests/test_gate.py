import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fake_policy import completion
from PIL import Image

from dermo_ray.config.base import load
from dermo_ray.config.serve import GateSettings, ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth, RLPrompt
from dermo_ray.taxonomy import Taxonomy
from serve.catalogue import Release
from serve.gate import Gate
from serve.messages import Answer

OLD, NEW = (Release(label=f"step_{step:06d}", version=step, checksum=str(step)) for step in (20, 40))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Ten prompts about a melanoma, with some tolerance."""
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    truth = GroundTruth(task="task3", modality="dermoscopic", final_label="Melanoma")
    prompts = [
        RLPrompt(id=str(n), image="image.png", source="x", group=str(n), prompt=f"<image>\nask {n}", ground_truth=truth)
        for n in range(10)
    ]
    settings = GateSettings(data=tmp_path, tolerance=0.1, timeout=5)
    return Gate(settings, Taxonomy.load(), prompts)


class Asked:
    """A service whose releases are right about the first so many prompts."""

    def __init__(self, **right: int) -> None:
        self.right = right
        self.questions: list[tuple[str, str]] = []

    async def __call__(self, release: Release, body: dict[str, Any]) -> Answer:
        image, text = body["messages"][0]["content"]
        assert image["image_url"]["url"].startswith("data:image/png;base64,")
        assert (text["text"][:4], body["temperature"]) == ("ask ", 0)
        self.questions.append((release.label, text["text"]))
        number = int(text["text"].removeprefix("ask "))
        label = "malignant melanoma" if number < self.right[release.label] else "Melanocytic Nevus"
        return Answer(200, json.dumps({"choices": [{"message": {"content": completion(label)}}]}).encode())


def check(gate: Gate, asked: Asked) -> None:
    asyncio.run(gate.check(NEW, OLD, asked))


def test_a_checkpoint_within_the_tolerance_passes_and_each_is_measured_once(gate: Gate):
    asked = Asked(step_000020=8, step_000040=7)
    check(gate, asked)
    check(gate, asked)
    assert len(asked.questions) == 20


def test_a_worse_checkpoint_is_refused_with_both_accuracies(gate: Gate):
    with pytest.raises(UserError, match=r"accuracy 0\.600, step_000020 has 0\.800"):
        check(gate, Asked(step_000020=8, step_000040=6))


def test_a_gate_that_cannot_be_asked_in_time_refuses(gate: Gate):
    async def never(release: Release, body: dict[str, Any]) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError

    hasty = Gate(gate.settings.model_copy(update={"timeout": 0.05}), gate.taxonomy, gate.prompts)
    with pytest.raises(UserError, match=r"within 0\.05 s"):
        asyncio.run(hasty.check(NEW, OLD, never))


def test_a_gate_that_leaves_no_room_for_a_prompt_is_a_mistake():
    with pytest.raises(UserError, match="leaves no room for a prompt"):
        load(ServeConfig, None, ["run=r", "engine.max_model_len=256", "live.gate={data: d}"])
