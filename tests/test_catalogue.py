import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dermo_ray import checkpoints
from dermo_ray.config.model import ModelSettings
from dermo_ray.errors import UserError
from serve import store
from serve.catalogue import Catalogue, Release
from serve.checkpoints import Checkpoint, inspect
from serve.naming import Names


def release(step: int) -> Release:
    return Release(label=f"step_{step:06d}", version=step, adapter=Path(f"/store/{step}"), checksum=str(step))


def catalogue(*steps: int, keep_previous: int = 1) -> Catalogue:
    """The catalogue of a service in which each of `steps` was promoted in turn."""
    first, *rest = steps
    made = Catalogue.starting_with(release(first), "test")
    for step in rest:
        made = made.take(release(step)).promote(f"step_{step:06d}", keep_previous)
    return made


def test_a_promoted_release_answers_and_the_one_before_stays_to_go_back_to():
    held = catalogue(20, 40, 60)
    assert held.newest.version == 60
    assert set(held.releases) == {"step_000040", "step_000060"}
    assert held.state("step_000040") == "previous"


def test_a_rollback_drops_the_bad_release_and_holds_later_ones_back():
    back = catalogue(20, 40).roll_back()
    assert back.newest.version == 20
    assert "step_000040" not in back.releases
    assert back.on_hold
    assert not back.take(release(60)).promote("step_000060", 1).on_hold
    with pytest.raises(UserError, match="nothing to roll back to"):
        back.roll_back()


def test_a_rolled_back_release_is_listed_as_refused_until_it_is_taken_again():
    back = catalogue(20, 40).roll_back()
    assert back.refused == {"step_000040": "rolled back to step_000020: push it to have it again"}
    assert back.take(release(40)).refused == {}
    assert catalogue(20, 40).pin("step_000040").roll_back().refused == {}


def test_a_release_that_answers_already_is_no_candidate():
    held = catalogue(20).take(release(40), 0.5)
    assert held.take(release(20)).candidate == "step_000040"
    assert held.take(release(20)).canary_share == 0.5
    assert catalogue(20).take(release(20), 0.5).canary_share == 0


def test_a_pinned_release_stays_until_it_is_unpinned():
    held = catalogue(20).pin("step_000020")
    for step in (40, 60):
        held = held.take(release(step)).promote(f"step_{step:06d}", 1)
    assert held.state("step_000020") == "pinned"
    assert "step_000020" not in held.unpin("step_000020").releases


def test_a_canary_answers_about_its_share_of_the_requests():
    held = catalogue(20).take(release(40)).canary("step_000040", 0.25)
    share = Counter(held.choose().version for _ in range(4000))[40] / 4000
    assert 0.2 < share < 0.3
    assert {held.canary("step_000040", 0).choose().version for _ in range(100)} == {20}
    assert held.promote("step_000040", 1).canary_share == 0


def test_a_newer_candidate_takes_the_place_of_the_one_before():
    held = catalogue(20).take(release(40), 0.5).take(release(60))
    assert set(held.releases) == {"step_000020", "step_000060"}
    assert held.canary_share == 0


def test_what_is_refused_changes_nothing_else_and_is_forgotten_once_it_is_taken():
    refused = catalogue(20).refuse("step_000040", "damaged")
    assert refused.releases == catalogue(20).releases
    assert refused.refused == {"step_000040": "damaged"}
    assert refused.take(release(40)).refused == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda held: held.promote("step_000099", 1), "not held here; held: step_000020"),
        (lambda held: held.pin("step_000099"), "not held here"),
        (lambda held: held.unpin("step_000020"), "is not pinned"),
        (lambda held: held.canary("step_000020", 0.5), "answers already"),
        (lambda held: held.take(release(40)).canary("step_000040", 2), "between 0 and 1"),
        (lambda held: held.take(Release(label="step_000020", version=9, checksum="other")), "other weights"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(change, reason):
    with pytest.raises(UserError, match=reason):
        change(catalogue(20))


def test_every_change_has_a_revision_of_its_own():
    held = catalogue(20)
    assert held.revision < held.pin("step_000020").revision < held.pin("step_000020").take(release(40)).revision


def test_names_lead_to_releases_with_and_without_cct():
    names, held = Names("dermo"), catalogue(20, 40)
    assert names.find("dermo", held) == (release(40), False)
    assert names.find("dermo+cct", held) == (release(40), True)
    assert names.find("dermo@step_000020", held) == (release(20), False)
    assert names.find("dermo@step_000020+cct", held) == (release(20), True)
    for unknown in ("", "derm", "dermo@", "dermo@step_000099", "dermo@step_000020@x", "dermo+cct+cct", "+cct"):
        assert names.find(unknown, held) is None, unknown
    offered = [name for name, _ in names.all(held)]
    assert offered[:4] == ["dermo", "dermo+cct", "dermo@step_000040", "dermo@step_000040+cct"]


@pytest.fixture
def base(tmp_path: Path) -> ModelSettings:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"layer.weight": np.zeros((4, 6), np.float32)}, folder / "model.safetensors")
    return ModelSettings(path=folder)


@pytest.fixture
def serving(base: ModelSettings) -> Checkpoint:
    return Checkpoint("step_000020", 20, base, Path("/nowhere"), 8)


def written(folder: Path, base: Path, rank: int = 8, step: int = 40, wide: int | None = None) -> Path:
    partial = checkpoints.begin(folder, step)
    (partial / "adapter").mkdir()
    (partial / "adapter" / "adapter_config.json").write_text(f'{{"r": {rank}, "base_model_name_or_path": "{base}"}}')
    matrices = {"A": np.full((rank, 6), step, np.float32), "B": np.zeros((4, wide or rank), np.float32)}
    weights = {f"base_model.model.layer.lora_{side}.weight": matrix for side, matrix in matrices.items()}
    save_file(weights, partial / "adapter" / "adapter_model.safetensors")
    return checkpoints.commit(partial, {"step": step, "version": step})


def test_a_sound_checkpoint_of_the_same_base_model_can_take_over(tmp_path: Path, serving: Checkpoint):
    found = inspect(written(tmp_path / "run", serving.model.path), serving)
    assert (found.label, found.version) == ("step_000040", 40)


def test_a_checkpoint_that_cannot_take_over_is_refused_with_its_reason(tmp_path: Path, serving: Checkpoint):
    base = serving.model.path
    damaged = written(tmp_path / "damaged", base)
    (damaged / "adapter" / "adapter_model.safetensors").write_text("cut off")
    partial = written(tmp_path / "partial", base)
    (partial / "MANIFEST.json").unlink()
    garbled = written(tmp_path / "garbled", base)
    (garbled / "MANIFEST.json").write_text('{"files": {"adapter/ada')
    empty = written(tmp_path / "empty", base)
    (empty / "MANIFEST.json").write_text("{}")
    cases = {
        garbled: "is damaged: MANIFEST.json can't be read",
        empty: "is damaged: MANIFEST.json can't be read",
        damaged: "is damaged: adapter/adapter_model.safetensors is not what was written",
        partial: "no complete checkpoint",
        written(tmp_path / "wide", base, rank=64): "rank 64; the engines take up to 8",
        written(tmp_path / "foreign", tmp_path / "other"): "belongs to the base model",
        tmp_path / "nothing": "no checkpoint at",
        written(tmp_path / "misshapen", base, wide=3): r"lora_B.weight has the shape \[4, 3\], not \[4, 8\]",
    }
    for folder, reason in cases.items():
        with pytest.raises(UserError, match=reason):
            inspect(folder, serving)


def test_the_store_keeps_copies_that_outlive_the_checkpoint_until_nobody_holds_them(
    tmp_path: Path, serving: Checkpoint
):
    folder = tmp_path / "store"
    kept = []
    for step in (20, 40, 60):
        source = written(tmp_path / "run", serving.model.path, step=step)
        kept.append(store.keep(folder, inspect(source, serving)))
        (source / "adapter" / "adapter_model.safetensors").unlink()
    held = Catalogue.starting_with(kept[1], "test").take(kept[2])
    store.save(folder, held)
    store.sweep(folder, [release.adapter for release in held.releases.values() if release.adapter])
    assert store.load(folder) == held
    assert {path.name.partition("-")[0] for path in folder.iterdir() if path.is_dir()} == {
        "step_000040",
        "step_000060",
    }


def test_two_services_that_keep_a_checkpoint_at_once_share_one_copy(
    tmp_path: Path, serving: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "store"
    newer = inspect(written(tmp_path / "run", serving.model.path), serving)
    copy, quicker = shutil.copytree, []

    def overtaken(source: Path, target: Path, **options: bool) -> None:
        monkeypatch.setattr(shutil, "copytree", copy)
        quicker.append(store.keep(folder, newer))
        copy(source, target, **options)

    monkeypatch.setattr(shutil, "copytree", overtaken)
    assert [store.keep(folder, newer)] == quicker
    assert list(folder.iterdir()) == [quicker[0].adapter]


def test_a_store_whose_copies_are_gone_is_named(tmp_path: Path):
    store.save(tmp_path, catalogue(20))
    with pytest.raises(UserError, match="which is gone"):
        store.load(tmp_path)
