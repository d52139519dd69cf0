"""The reward worker scores whole groups; the concept model sees each image once."""

from pathlib import Path

import pytest
from PIL import Image
from reward_cases import HONEST, MELANOMA, FakeConcepts, fields, write

from actors.messages import Group, Prompt, Sampled
from actors.reward import RewardWorker
from dermo_ray.config import RewardConfig
from dermo_ray.config.reward import ImportedTerm
from dermo_ray.errors import UserError
from dermo_ray.records import RLPrompt
from rewards import mavic_reward

TEXTS = [HONEST, write(fields(7), "Melanoma"), "", HONEST + "!"]


def group(*texts: str) -> Group:
    record = RLPrompt(id="1", image="images/a.png", source="s", group="g", prompt="<image>", ground_truth=MELANOMA)
    return Group(Prompt(0, record), 0, [1], [Sampled([1], [-1.0], text, "stop") for text in texts])


class FakeConceptScorer:
    """A concept model that counts how often it was loaded and keeps the images it was shown."""

    loaded = 0
    schemas = ("derm7pt",)

    def __init__(self) -> None:
        self.images: list[Image.Image] = []
        type(self).loaded += 1

    @classmethod
    def of(cls, path: Path) -> "FakeConceptScorer":
        return cls()

    def concepts(self, image: Image.Image) -> FakeConcepts:
        self.images.append(image)
        return FakeConcepts(image.getpixel((0, 0))[0] / 255, 0.5)


def test_a_group_gets_one_reward_a_completion_in_order() -> None:
    scored = RewardWorker(RewardConfig()).score(group(*TEXTS))

    assert scored.rewards == [mavic_reward(text, MELANOMA, RewardConfig()) for text in TEXTS]


def test_an_image_is_looked_at_once_for_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dermo_ray.models.concepts.ConceptScorer", FakeConceptScorer)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "images/a.png")
    config = RewardConfig(concepts=tmp_path)
    worker = RewardWorker(config, tmp_path)

    worker.start()
    first = worker.score(group(*TEXTS))
    worker.score(group(*TEXTS))

    assert FakeConceptScorer.loaded == 1
    assert len(worker._images._scorer.images) == 2  # one for each group
    assert first.rewards == [mavic_reward(text, MELANOMA, config, FakeConcepts(1.0, 0.5)) for text in TEXTS]


def test_the_consistency_term_does_not_apply_where_the_model_never_learned_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dermo_ray.models.concepts.ConceptScorer", FakeConceptScorer)
    monkeypatch.setattr(FakeConceptScorer, "schemas", ("skincon",))
    config = RewardConfig(concepts=tmp_path)
    scored = RewardWorker(config, tmp_path).score(group(*TEXTS))
    assert scored.rewards == [mavic_reward(text, MELANOMA, config) for text in TEXTS]


def test_what_a_worker_can_not_do_without_is_asked_for_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder that holds the images"):
        RewardWorker(RewardConfig(concepts=tmp_path))
    with pytest.raises(UserError, match="there is no module my_absent"):
        RewardWorker(RewardConfig(extra=(ImportedTerm(path="my_absent:f"),))).start()
