"""A prepared folder in the released DermoGPT shapes, which LLaVA-style trainers read, and such files back as records.

`trajectories_SPLIT.json` is an array of `id`, `image`, `conversations`; `rl_SPLIT.jsonl` has one object a line, with
the human turn alone as `conversations` and a `ground_truth` besides. Images stay where they are: their paths are
relative to the prepared folder, which is the image folder to give to a trainer.

Invariants: memory does not grow with the records, in either direction. Keys are the released ones; `annotator` alone is
ours and stands only in records that are partly machine-made.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, get_args

import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError, field_validator

from dermo_ray.errors import UserError
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import Format, GroundTruth, RLPrompt, Split, Trajectory, Turn
from dermo_ray.taxonomy import Taxonomy
from dermo_ray.taxonomy_files import bottom_up, mapping, top_down

Row = dict[str, Any]

_ROWS_AT_A_TIME = 1_000
_CHARACTERS_AT_A_TIME = 1 << 20
_LONGEST_RECORD = 1 << 24
"""Characters of an array after which a record that does not end is taken to be malformed."""
_BETWEEN_RECORDS = re.compile(r"[\s,]*")
_FORMATS = sorted(get_args(Format), key=len, reverse=True)


class _Released(BaseModel):
    """What the released files hold; keys besides these are passed over."""

    id: str
    image: str
    conversations: list[Turn]
    ground_truth: GroundTruth | None = None
    annotator: str | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _the_one_image(cls, value: object) -> object:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @field_validator("conversations")
    @classmethod
    def _mark_the_image(cls, turns: list[Turn]) -> list[Turn]:
        if not turns or turns[0].from_ != "human":
            raise ValueError("a conversation begins with a human turn")
        if any(IMAGE_PLACEHOLDER in turn.value for turn in turns):
            return turns
        return [Turn(from_="human", value=f"{IMAGE_PLACEHOLDER}\n{turns[0].value}"), *turns[1:]]


def export_llava(prepared: Path, folder: Path, taxonomy: Taxonomy) -> dict[str, int]:
    """Write the records of a prepared folder into `folder`, and the tree; return how many records each file got.

    A split without records gives no file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"diagnosis_mapping": mapping, "hierarchy_bottom_up": bottom_up, "hierarchy_top_down": top_down}
    for name, shape in shapes.items():
        text = json.dumps(shape(taxonomy.leaves), ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    counts = {}
    for split in get_args(Split):
        if files := sorted((prepared / "trajectories" / split).glob("*.parquet")):
            name = f"trajectories_{split}.json"
            with (folder / name).open("w", encoding="utf-8") as file:
                counts[name] = _write_array(map(_released_trajectory, _rows(files)), file)
        if files := sorted((prepared / "rl" / split).glob("*.parquet")):
            name = f"rl_{split}.jsonl"
            with (folder / name).open("w", encoding="utf-8") as file:
                counts[name] = _write_lines(map(_released_prompt, _rows(files)), file)
    return counts


def read_llava(path: Path) -> Iterator[Trajectory]:
    """The conversations of a `.json` array or a `.jsonl` file, released or ours.

    What the shape does not say is filled in: `source` is the file's name, `group` the image, `format` what the id
    begins with, or "other" where that is no format of ours. Raises `UserError` for a malformed file.
    """
    for record in _read(path):
        yield Trajectory(
            id=record.id,
            image=record.image,
            format=next((name for name in _FORMATS if record.id.startswith(f"{name}_")), "other"),
            source=path.stem,
            group=record.image,
            conversations=record.conversations,
            annotator=record.annotator,
        )


def read_llava_rl(path: Path) -> Iterator[RLPrompt]:
    """The prompts of a `.json` array or a `.jsonl` file, filled in as by `read_llava`.

    Raises `UserError` for a malformed file and for a record without `ground_truth`.
    """
    for record in _read(path):
        if record.ground_truth is None:
            raise UserError(f"{path}: {record.id} has no ground_truth: read conversations with read_llava")
        yield RLPrompt(
            id=record.id,
            image=record.image,
            source=path.stem,
            group=record.image,
            prompt=record.conversations[0].value,
            ground_truth=record.ground_truth,
        )


def _rows(files: Iterable[Path]) -> Iterator[Row]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
                yield from batch.to_pylist()


def _released_trajectory(row: Row) -> Row:
    made_by = {} if row.get("annotator") is None else {"annotator": row["annotator"]}
    return {"id": row["id"], "image": row["image"], "conversations": row["conversations"]} | made_by


def _released_prompt(row: Row) -> Row:
    return {
        "id": row["id"],
        "image": row["image"],
        "conversations": [{"from": "human", "value": row["prompt"]}],
        "ground_truth": GroundTruth.model_validate_json(row["ground_truth"]).model_dump(),
    }


def _write_array(rows: Iterable[Row], file: TextIO) -> int:
    count = 0
    for row in rows:
        file.write((",\n" if count else "[\n") + json.dumps(row, ensure_ascii=False))
        count += 1
    file.write("\n]\n" if count else "[]\n")
    return count


def _write_lines(rows: Iterable[Row], file: TextIO) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def _read(path: Path) -> Iterator[_Released]:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    whole = 0
    with path.open(encoding="utf-8") as file:
        rows = _elements(file) if path.suffix == ".json" else map(json.loads, filter(str.strip, file))
        try:
            for row in rows:
                yield _Released.model_validate(row)
                whole += 1
        except ValueError as error:  # no JSON, no UTF-8 or not this shape
            raise UserError(f"{path}, record {whole + 1} can't be read: {_cause(error)}") from error


def _elements(file: TextIO) -> Iterator[Any]:
    """The objects of a JSON array, one after the other."""
    decoder = json.JSONDecoder()
    text, place = file.read(_CHARACTERS_AT_A_TIME).lstrip(), 1
    if not text.startswith("["):
        raise ValueError("a .json file must hold an array; give one with an object a line the suffix .jsonl")
    while True:
        place = _BETWEEN_RECORDS.match(text, place).end()  # type: ignore[union-attr]  # it matches everywhere
        if text.startswith("]", place):
            return
        try:
            element, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:  # cut off, unless more text does not help
            more = file.read(_CHARACTERS_AT_A_TIME)
            if not more or len(text) - place > _LONGEST_RECORD:
                raise
            text, place = text[place:] + more, 0
        else:
            yield element


def _cause(error: ValueError) -> str:
    """One line about what is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
