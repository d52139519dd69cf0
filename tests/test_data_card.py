"""The data card of a prepared folder."""

import json
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from dermo_ray.data.card import data_card


@pytest.mark.parametrize(
    ("name", "kind"), [(None, "trajectories"), ("trajectories", "trajectories"), ("rl", "rl"), ("samples", None)]
)
def test_the_folder_loads_as_it_is(small_corpus: Path, tmp_path: Path, name: str | None, kind: str | None) -> None:
    loaded = datasets.load_dataset(str(small_corpus), name, cache_dir=str(tmp_path))
    rows = {split: len(table) for split, table in loaded.items()}
    if kind is None:
        assert rows == {"all_splits": pq.read_metadata(small_corpus / "samples.parquet").num_rows}
    else:
        assert rows == json.loads((small_corpus / "manifest.json").read_text())["counts"][kind]["split"]


def test_splits_and_kinds_without_rows_are_not_named(small_corpus: Path) -> None:
    manifest = json.loads((small_corpus / "manifest.json").read_text())
    manifest["counts"]["trajectories"] = {"total": 0}
    del manifest["counts"]["rl"]["split"]["val"]
    head = data_card(manifest).split("---")[1]
    assert "trajectories" not in head
    assert "rl/val" not in head
    assert "rl/test" in head


def test_the_card_counts_records_by_source_and_says_why_a_teachers_parts_were_dropped(small_corpus: Path) -> None:
    manifest = json.loads((small_corpus / "manifest.json").read_text())
    teacher = {
        "accepted": {"morphology": 7},
        "dropped": {"description": {"too_short": 3, "names_diagnosis": 2}},
        "failed": {"timeout": 4},
        "over_budget": 5,
    }
    card = data_card(manifest | {"teacher": teacher})
    for kind in ("trajectories", "rl"):
        assert f"| phantoms | {manifest['counts'][kind]['total']} |" in card
    for row in ("morphology | 7", "description | too_short | 3", "timeout | 4", "over_budget | 5"):
        assert f"| {row} |" in card
