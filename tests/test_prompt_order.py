"""The order of prompts: fixed by data, seed and index; every epoch shows every prompt once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth, RLPrompt

TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")


def prompts(count: int) -> list[RLPrompt]:
    return [
        RLPrompt(
            id=f"p{n:03d}", image=f"{n}.png", source="s", group=f"g{n}", prompt="<image>\nName it", ground_truth=TRUTH
        )
        for n in range(count)
    ]


def write(folder: Path, name: str, records: list[RLPrompt]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**record.model_dump(), "ground_truth": record.ground_truth.model_dump_json()} for record in records]
    schema = pa.schema([(key, pa.string()) for key in ("id", "image", "source", "group", "prompt", "ground_truth")])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / name)


def test_every_epoch_shows_every_prompt_once_in_an_order_of_its_own() -> None:
    order = PromptOrder(prompts(20), seed=0)
    epochs = [[order[index].id for index in range(start, start + 20)] for start in (0, 20, 40)]
    for epoch in epochs:
        assert sorted(epoch) == [record.id for record in order.prompts]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_an_index_means_the_same_prompt_whenever_it_is_asked_for() -> None:
    forwards, backwards = PromptOrder(prompts(20), seed=3), PromptOrder(prompts(20), seed=3)
    indices = range(100)
    there = {index: forwards[index].id for index in indices}
    assert there == {index: backwards[index].id for index in reversed(indices)}
    assert there != {index: PromptOrder(prompts(20), seed=4)[index].id for index in indices}


def test_prompts_of_a_split_come_in_the_order_of_their_ids_whichever_file_holds_them(tmp_path: Path) -> None:
    records = prompts(7)
    write(tmp_path / "rl" / "train", "b.parquet", records[:3])
    write(tmp_path / "rl" / "train", "a.parquet", records[:2:-1])
    write(tmp_path / "rl" / "val", "a.parquet", records[:1])
    assert read_prompts(tmp_path, "train") == records
    assert read_prompts(tmp_path, "val") == records[:1]


def test_a_folder_without_prompts_names_the_job_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rl/train holds no prompts: run jobs\.prepare"):
        read_prompts(tmp_path, "train")


def test_a_split_without_prompts_is_said_to_hold_none(tmp_path: Path) -> None:
    write(tmp_path / "rl" / "test", "a.parquet", [])
    with pytest.raises(UserError, match="rl/test holds no prompts at all"):
        read_prompts(tmp_path, "test")


def test_prompts_of_some_sources_alone_can_be_asked_for(tmp_path: Path) -> None:
    records = prompts(4)
    others = [record.model_copy(update={"id": f"x{record.id}", "source": "other"}) for record in records]
    write(tmp_path / "rl" / "train", "a.parquet", records + others)
    assert read_prompts(tmp_path, "train", ["other"]) == others
    with pytest.raises(UserError, match="holds no prompts of third; it has other, s"):
        read_prompts(tmp_path, "train", ["third"])
