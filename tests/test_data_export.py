"""The released shapes: what is exported, and that it reads back."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermo_ray.data import export
from dermo_ray.data.export import export_llava, read_llava, read_llava_rl
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth, RLPrompt, Trajectory, Turn
from dermo_ray.taxonomy import Taxonomy

TRUTH = GroundTruth(
    task="task1",
    modality="dermoscopic",
    final_label="Melanoma",
    taxon_path=["Neoplasms & Proliferations", "Malignant Tumors"],
    morph={"morphological_features_Derm7pt": {"Streaks": "irregular"}},
)


def trajectory(number: int, annotator: str | None = None) -> Trajectory:
    answer = f'<morph>{{"é": [{number}]}}</morph>\n] and "quotes", [brackets'
    turns = [("human", "<image>\nLook"), ("gpt", answer), ("human", "And?"), ("gpt", "x")]
    return Trajectory(
        id=f"morph_description_phantoms_{number}",
        image=f"images/{number}.png",
        format="morph_description",
        source="phantoms",
        group=f"phantoms_{number}",
        conversations=[Turn(from_=who, value=text) for who, text in turns],
        annotator=annotator,
    )


def rl_prompt(number: int, truth: GroundTruth = TRUTH) -> RLPrompt:
    return RLPrompt(
        id=f"grpo_task1_{number}",
        image=f"{number}.png",
        source="s",
        group="g",
        prompt="<image>\nGo",
        ground_truth=truth,
    )


def prepare(folder: Path, trajectories: list[Trajectory], prompts: list[RLPrompt]) -> Path:
    """A folder as jobs.prepare leaves it, as far as an export reads it; two files of each kind."""
    rows = [record.model_dump(by_alias=True) for record in trajectories]
    truths = [record.ground_truth.model_dump_json(exclude_none=True) for record in prompts]
    rl_rows = [record.model_dump() | {"ground_truth": truth} for record, truth in zip(prompts, truths, strict=True)]
    for kind, found in (("trajectories", rows), ("rl", rl_rows)):
        target = folder / kind / "train"
        target.mkdir(parents=True)
        for number, part in enumerate((found[:2], found[2:])):
            pq.write_table(pa.Table.from_pylist(part), target / f"part-{number:05d}.parquet")
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    prepared = prepare(
        tmp_path / "prepared",
        [*map(trajectory, range(4)), trajectory(4, '{"model": "teacher"}')],
        [*map(rl_prompt, range(4)), rl_prompt(4, GroundTruth(task="task3", modality="clinical"))],
    )
    counts = export_llava(prepared, tmp_path / "llava", Taxonomy.load())
    assert counts == {"trajectories_train.json": 5, "rl_train.jsonl": 5}
    return tmp_path / "llava"


def test_trajectories_are_an_array_of_the_released_records(exported: Path) -> None:
    rows = json.loads((exported / "trajectories_train.json").read_text(encoding="utf-8"))
    assert [list(row) for row in rows[:4]] == [["id", "image", "conversations"]] * 4
    assert list(rows[0]["conversations"][0].items()) == [("from", "human"), ("value", "<image>\nLook")]
    assert rows[4]["annotator"] == '{"model": "teacher"}'


def test_prompts_are_lines_with_every_released_key_of_the_ground_truth(exported: Path) -> None:
    rows = [json.loads(line) for line in (exported / "rl_train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["id", "image", "conversations", "ground_truth"] for row in rows)
    assert all(list(row["ground_truth"]) == ["task", "modality", "final_label", "taxon_path", "morph"] for row in rows)
    assert rows[0]["conversations"] == [{"from": "human", "value": "<image>\nGo"}]
    assert rows[0]["ground_truth"] == TRUTH.model_dump()


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_what_was_exported_reads_back(exported: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(export, "_CHARACTERS_AT_A_TIME", chunk)
    back = list(read_llava(exported / "trajectories_train.json"))
    wanted = [*map(trajectory, range(4)), trajectory(4, '{"model": "teacher"}')]
    assert back == [
        record.model_copy(update={"source": "trajectories_train", "group": record.image}) for record in wanted
    ]
    prompts = list(read_llava_rl(exported / "rl_train.jsonl"))
    assert [record.ground_truth for record in prompts[3:]] == [
        TRUTH,
        GroundTruth(task="task3", modality="clinical"),
    ]
    assert {record.prompt for record in prompts} == {"<image>\nGo"}


def test_a_released_record_reads_whatever_its_habits(tmp_path: Path) -> None:
    row = {
        "id": "task2_diagnosis_mcq_DermNet_003623",
        "image": ["dermnet/a.jpg"],
        "conversations": [{"from": "human", "value": "Which?\nA) x"}, {"from": "gpt", "value": "A) x"}],
        "split": "train",
    }
    array, lines = tmp_path / "released.json", tmp_path / "released.jsonl"
    array.write_text(json.dumps([row, row], indent=4), encoding="utf-8")
    lines.write_text(f"{json.dumps(row)}\n\n{json.dumps(row)}", encoding="utf-8")
    for path in (array, lines):
        first, second = read_llava(path)
        assert first == second
        assert (first.format, first.image, first.source, first.group) == (
            "other",
            "dermnet/a.jpg",
            "released",
            "dermnet/a.jpg",
        )
        assert first.conversations[0].value == "<image>\nWhich?\nA) x"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.json", "{}", ["record 1", ".jsonl"]),
        ("x.json", "", ["record 1", ".jsonl"]),
        ("x.json", '[{"id": 1}', ["record 1", "id"]),
        ("x.json", '[{"id": "a"', ["record 1", "delimiter"]),
        ("x.json", "[1]", ["record 1"]),
        ("x.jsonl", "nonsense", ["record 1", "Expecting value"]),
        (
            "x.jsonl",
            '{"id": "a", "image": "b", "conversations": [{"from": "gpt", "value": ""}]}',
            ["record 1", "begins with a human turn"],
        ),
        (
            "x.jsonl",
            '{"id": "a", "image": ["b", "c"], "conversations": [{"from": "human", "value": ""}]}',
            ["record 1", "image"],
        ),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, name: str, content: str, parts: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        list(read_llava(tmp_path / name))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_record_that_never_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_CHARACTERS_AT_A_TIME", 10)
    monkeypatch.setattr(export, "_LONGEST_RECORD", 100)
    (tmp_path / "x.json").write_text('[{"id": "' + "a" * 1000 + '"}]', encoding="utf-8")
    with pytest.raises(UserError, match="record 1"):
        list(read_llava(tmp_path / "x.json"))


def test_a_file_without_references_is_not_taken_for_prompts(exported: Path) -> None:
    with pytest.raises(UserError, match="has no ground_truth"):
        list(read_llava_rl(exported / "trajectories_train.json"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*absent\.json"):
        list(read_llava(tmp_path / "absent.json"))
