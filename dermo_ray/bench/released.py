"""Items of the benchmark from released files.

A file is a JSON array or has one object a line, whatever it is called. Its rows have `id`, `image` and `conversations`;
ids may repeat within and across files, images may be spelt in another letter case than the files on disk.

Invariants: a row becomes an item or is counted under a reason; items keep the order of the rows and their ids depend on
the file alone.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from dermo_ray.bench.tasks.conversation import from_conversation
from dermo_ray.bench.tasks.items import BenchItem, Facts, Items, TaskId, gather
from dermo_ray.bench.tasks.open_ended import parts
from dermo_ray.bench.tasks.registry import TASKS
from dermo_ray.data.formats import FormatContext, trajectories
from dermo_ray.data.samples import Reject, StoredSample
from dermo_ray.data.sources.layout import read_rows, require_columns
from dermo_ray.errors import UserError
from dermo_ray.morphology import Modality
from dermo_ray.prompts import Style
from dermo_ray.records import Turn
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the release, under the first of its `names` below the benchmark's folder that is there."""

    names: tuple[str, ...]
    subset: str | None = None
    """The data set it holds, where a task has several."""


_DIAGNOSIS = "task2/2_1_mcq"
_FOUR_WAY = ReleasedFile((f"{_DIAGNOSIS}/4_choices/task2.1_test_2k_non_uniform_sample_final.json",))

FILES: Mapping[TaskId, tuple[ReleasedFile, ...]] = MappingProxyType(
    {
        "t1.1": (ReleasedFile(("task1/1_1_description_wo_morph/task1_1_final.jsonl",)),),
        "t1.2": (ReleasedFile(("task1/1_2_description_w_morph/task1_2_final.jsonl",)),),
        "t1.3": (ReleasedFile(("task1/1_3_mcq_derm7pt/derm7pt_test_mcq.json",)),),
        "t1.4": (ReleasedFile(("task1/1_4_mcq_skincon/skincon_all_mcq.json",)),),
        "t2.1": (_FOUR_WAY,),
        "t2.2": (
            ReleasedFile(
                (
                    f"{_DIAGNOSIS}/25_choices/task2.1_25choices_test_2k_non_uniform_sample_final.json",
                    f"{_DIAGNOSIS}/25_choices/task2.1_25choices_gpt_test_2k_non_uniform_sample_final.json",
                )
            ),
        ),
        "t2.3": (_FOUR_WAY,),
        "t2.4": (
            ReleasedFile((f"{_DIAGNOSIS}/derm1m_edu/task2.1_derm1m_edu_final.json",), "derm1m_edu"),
            ReleasedFile((f"{_DIAGNOSIS}/ddi/task2.1_ddi_4choices.json",), "ddi"),
            ReleasedFile((f"{_DIAGNOSIS}/derm7pt/task2.1_derm7pt_4choices.json",), "derm7pt"),
            ReleasedFile((f"{_DIAGNOSIS}/snu134/task2.1_snu134_4choices.json",), "snu134"),
        ),
        "t3.1": (ReleasedFile(("task3/3_1/task3_1_final.jsonl",)),),
        "t3.2": (ReleasedFile(("task3/3_2/task3_2_final.jsonl",)),),
        "t4": (ReleasedFile(("task4/ddi_4choices_final.json", "task4/ddi_4choices_final.jsonl")),),
    }
)
"""Where the release of mendicant04/DermoBench keeps each task, or the authors' scripts look for it."""

SkinTones = Mapping[str, str]
"""File name of an image in lower case: its group of skin tones."""


class _Turn(BaseModel):
    """What is read of a turn; other keys are passed over, here and in a row."""

    from_: Literal["human", "gpt"] = Field(alias="from")
    value: str


class _Row(BaseModel):
    """What is read of a row."""

    id: str | int | None = None
    image: list[str]
    conversations: list[_Turn]

    @field_validator("image", mode="before")
    @classmethod
    def _as_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class ImageIndex:
    """Finds images below a folder whatever the letter case of their paths; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        """Raises `UserError` where there is no such folder."""
        if not root.is_dir():
            raise UserError(f"no such folder: {root}; give the folder that the image paths of the benchmark start from")
        self._root = root.absolute()
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, image: str) -> Path | None:
        """The file that `image`, a path relative to the root, means: the one spelt so, else the only one spelt alike.

        None where there is none, or several and no one is spelt so. Paths that leave the root find nothing.
        """
        place = self._root
        for part in PurePosixPath(image.replace("\\", "/")).parts:
            alike = self._listing(place).get(part.casefold(), [])
            if part not in alike and len(alike) != 1:
                return None
            place = place / (part if part in alike else alike[0])
        return place if place.is_file() else None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder, by their spelling in lower case."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            for name in os.listdir(folder) if folder.is_dir() else ():
                names.setdefault(name.casefold(), []).append(name)
            self._listings[folder] = names
        return self._listings[folder]


def read(
    task: TaskId,
    path: Path,
    images: ImageIndex | None = None,
    *,
    subset: str | None = None,
    skin_tones: SkinTones | None = None,
    taxonomy: Taxonomy | None = None,
    style: Style = "full",
    seed: int = 0,
) -> Items:
    """The items of `task` in a released file.

    Without `images` nothing is looked for on disk and paths stay as the file has them: enough to score answers.
    `subset` names the data set where a task has several; `skin_tones` comes from `read_skin_tones`. Hierarchical
    diagnosis (t2.3) is made from the file of t2.1: its labels, walked down `taxonomy` (default: the default tree), with
    wordings in `style` drawn by `seed`.

    Rows left out: no_reference, no_options, answer_not_an_option (also where letter and text of the answer disagree),
    missing_image, and of walks label_not_in_tree. Raises `UserError` for a missing or malformed file, and where every
    row is left out.
    """
    rows = list(enumerate(_rows(path), start=1))
    tree = taxonomy or Taxonomy.load()
    context = FormatContext(style, tree, tree.labels, seed)

    def make(numbered: tuple[int, _Row]) -> BenchItem:
        if task != "t2.3":
            return _item(task, *numbered, images, subset, skin_tones or {})
        return _walk(_item("t2.1", *numbered, images, subset, skin_tones or {}), context)

    found = gather(rows, make)
    if rows and not found.items:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.left_out.items())
        raise UserError(f"{path} gives no item of {task}: {reasons}; check the file and the folder of images")
    return found


def read_release(
    root: Path,
    images: ImageIndex | None = None,
    tasks: Iterable[TaskId] = tuple(TASKS),
    *,
    skin_tones: SkinTones | None = None,
    taxonomy: Taxonomy | None = None,
    style: Style = "full",
    seed: int = 0,
) -> dict[TaskId, Items]:
    """The items of `tasks` from their files below `root`, the benchmark's folder; see `read`.

    A task without a file is empty; `absent` names the files that are not there, also those of single data sets. Raises
    `UserError` where no file is there.
    """
    reader = partial(read, images=images, skin_tones=skin_tones, taxonomy=taxonomy, style=style, seed=seed)
    released: dict[TaskId, Items] = {}
    for task in tasks:
        there = [(next(filter(Path.is_file, map(root.joinpath, file.names)), None), file) for file in FILES[task]]
        files = [reader(task, path, subset=file.subset) for path, file in there if path is not None]
        released[task] = _joined(files, tuple(file.names[0] for path, file in there if path is None))
    if all(len(found.absent) == len(FILES[task]) for task, found in released.items()):
        raise UserError(f"{root} holds no benchmark file; give the folder that has task1, task2, task3 and task4 in it")
    return released


def read_skin_tones(path: Path) -> dict[str, str]:
    """{image file name in lower case: group of skin tones} of DDI, from a CSV file; rows without a group are left out.

    The columns are those of DDI's `ddi_metadata.csv` (`DDI_file`, `skin_tone`) or of the authors' own table
    (`relative_path`, `fitzpatrick_skin_type`). Raises `UserError` for a missing file and other columns.
    """
    rows = read_rows(path, ())
    columns = ("relative_path", "fitzpatrick_skin_type") if "relative_path" in rows[0] else ("DDI_file", "skin_tone")
    require_columns(path, rows[0], columns)
    image, tone = columns
    return {_file_name(row[image]): row[tone] for row in rows if row[image] and row[tone]}


def _item(
    task: TaskId, number: int, row: _Row, images: ImageIndex | None, subset: str | None, skin_tones: SkinTones
) -> BenchItem:
    name = str(row.id) if row.id not in (None, "") else f"row_{number:06d}"
    turns = [Turn(from_=turn.from_, value=turn.value) for turn in row.conversations if turn.value.strip()][:2]
    first = row.image[0] if row.image else None
    facts = Facts(
        modality=_modality(first or "", turns[-1].value if turns else ""),
        skin_tone=skin_tones.get(_file_name(first)) if first else None,
        subset=subset,
        group=first,
        source_id=name,
    )
    return from_conversation(task, name, _found(row.image, images), turns, facts)


def _walk(choice: BenchItem, context: FormatContext) -> BenchItem:
    """The walk to the label of a multiple choice."""
    facts = choice.facts
    label = context.taxonomy.canonical(facts.label or "")
    if label is None or facts.source_id is None or facts.modality is None:
        raise Reject("label_not_in_tree")
    sample = StoredSample(
        id=facts.source_id,
        source="",
        group="",
        modality=facts.modality,
        image="",
        label=label,
        morphology=None,
        annotation=None,
    )
    walks = trajectories(sample, "hierarchy", context)
    if not walks:
        raise Reject("label_not_in_tree")
    known = facts.model_copy(update={"label": label})
    return from_conversation("t2.3", facts.source_id, choice.images, walks[0].conversations, known)


def _found(image: list[str], images: ImageIndex | None) -> list[str]:
    if images is None:
        return image
    paths = [images.find(name) for name in image]
    if not paths or None in paths:
        raise Reject("missing_image")
    return [str(path) for path in paths]


def _modality(image: str, reference: str) -> Modality:
    """By the schema of the reference's morphology, else by words in the path, as the authors' scripts decide."""
    if (morphology := parts(reference).morphology) is not None:
        return "dermoscopic" if morphology.schema == "derm7pt" else "clinical"
    path = f"/{image.casefold()}"
    return "dermoscopic" if "/derm7pt/" in path or "/dermoscop" in path else "clinical"


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].casefold()


def _joined(several: list[Items], absent: tuple[str, ...]) -> Items:
    left_out = sum((Counter(part.left_out) for part in several), Counter[str]())
    return Items([item for part in several for item in part.items], dict(sorted(left_out.items())), absent)


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file. Raises `UserError` naming the one that can't be read."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; it belongs to the released benchmark")
    try:
        text = path.read_text(encoding="utf-8-sig")
        array = text.lstrip().startswith("[")
        values = json.loads(text) if array else [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:  # no JSON or no UTF-8
        raise UserError(f"{path} is neither a JSON array nor one object a line: {error}") from error
    for number, value in enumerate(values, start=1):
        try:
            yield _Row.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            cause = ": ".join([*map(str, first["loc"]), first["msg"]])
            raise UserError(f"{path}, record {number} can't be read: {cause}") from error
