"""Fills in what images lack: asks, keeps every answer, filters, and counts all that happens.

Invariants: what an annotator wrote is never replaced; an answer that the cache has is never asked for; each part that
is accepted has its provenance; each question counts once, as cached, asked, failed or over budget.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from dermo_ray.asking.answering import Answering, Tally, work_through
from dermo_ray.asking.cache import Provenance, Record, opened
from dermo_ray.config.teacher import Part, TeacherSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.ask import Ask, Picture
from dermo_ray.data.teacher.filters import SCHEMA_VIOLATION, Draft, first_fault
from dermo_ray.data.teacher.questions import Question, prompt_version, question
from dermo_ray.data.teacher.schema import Kind, Reply, read
from dermo_ray.morphology import Morphology
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class Annotation:
    """What a teacher adds to one image; None where the image has it already, or nothing was accepted."""

    morphology: Morphology | None
    description: str | None
    reasoning: str | None
    annotator: str
    """JSON: for each part that was added the model, the version of its prompt, the date and the backend."""


@dataclass
class AnnotationReport(Tally):
    """What a teacher added to the images, and what came of every question."""

    annotations: dict[str, Annotation] = field(default_factory=dict)
    """By the id of the sample; those to which nothing was added are left out."""
    images: int = 0
    """Images that were looked at."""
    accepted: Counter[Part] = field(default_factory=Counter)
    dropped: dict[Part, Counter[str]] = field(default_factory=lambda: {part: Counter() for part in get_args(Part)})
    """Parts that a filter refused, by the filter's name."""
    missing: Counter[Part] = field(default_factory=Counter)
    """Parts that images lacked and still lack, for whatever reason."""

    def counts(self) -> dict[str, Any]:
        """All but the annotations themselves, as JSON."""
        values = {name: value for name, value in vars(self).items() if name != "annotations"}
        return values | {"dropped": {part: names for part, names in self.dropped.items() if names}}


async def annotate(
    samples: Iterable[StoredSample],
    images_root: Path,
    settings: TeacherSettings,
    ask: Ask,
    taxonomy: Taxonomy,
    progress: Callable[[AnnotationReport], None],
) -> AnnotationReport:
    """Ask for what `samples` lack; their images are relative to `images_root`.

    `progress` is called after every image. Raises `UserError` where the teacher refuses to work or no longer answers;
    the answers so far are kept.
    """
    report = AnnotationReport()
    with opened(settings.cache) as cache:
        answering = Answering("the teacher", settings.model, settings.backend, settings, cache, report, keep_unfit=True)
        annotator = _Annotator(images_root, settings, ask, taxonomy, answering, report)

        async def work(sample: StoredSample) -> None:
            await annotator.annotate(sample)
            report.images += 1
            progress(report)

        await work_through(samples, work, settings.concurrency)
    return report


@dataclass
class _Annotator:
    root: Path
    settings: TeacherSettings
    ask: Ask
    taxonomy: Taxonomy
    answering: Answering
    report: AnnotationReport

    async def annotate(self, sample: StoredSample) -> None:
        lacking = _lacking(sample, self.settings.fields)
        added: dict[Part, tuple[Any, Provenance]] = {}
        seen = lacking & {"morphology", "description"}
        if seen:
            kind: Kind = "observation" if sample.annotation is None else "description"
            added |= await self._added(question(kind, sample, self.settings, sample.annotation), seen, sample.label)
        morphology = added["morphology"][0] if "morphology" in added else sample.annotation
        if "reasoning" in lacking and sample.label is not None and morphology is not None:
            asked = question("reasoning", sample, self.settings, morphology)
            added |= await self._added(asked, {"reasoning"}, sample.label)

        self.report.accepted.update(added.keys())
        self.report.missing.update(lacking - added.keys())
        if added:
            sources = {part: asdict(source) for part, (_, source) in added.items()}
            values = {part: added[part][0] if part in added else None for part in get_args(Part)}
            self.report.annotations[sample.id] = Annotation(**values, annotator=json.dumps(sources, sort_keys=True))

    async def _added(self, asked: Question, parts: Set[Part], label: str | None) -> dict[Part, tuple[Any, Provenance]]:
        """The parts of the answer that pass, each with its provenance."""
        record = await self._answer(asked)
        if record is None:
            return {}
        reply = read(record.answer.text, asked.kind, asked.modality)
        added: dict[Part, tuple[Any, Provenance]] = {}
        for part in sorted(parts):
            value, fault = self._judged(part, reply, label)
            if fault is None:
                added[part] = value, record.provenance
            else:
                self.report.dropped[part][fault] += 1
        return added

    def _judged(self, part: Part, reply: Reply | None, label: str | None) -> tuple[Any, str | None]:
        """A part of a reply, and the name of the filter that drops it."""
        if reply is None:
            return None, SCHEMA_VIOLATION
        if part == "morphology":
            return reply.morphology, None
        if part == "description":
            draft = Draft(" ".join((reply.description or "").split()))
        else:
            draft = Draft((reply.reasoning or "").strip(), label, reply.diagnosis)
        return draft.text, first_fault(draft, part, self.settings.filters, self.taxonomy)

    async def _answer(self, asked: Question) -> Record | None:
        """The answer, from the cache or else from the teacher; None where there is none to be had."""
        kept = self.answering.kept(asked.key)
        if kept is not None:
            return kept
        picture = await asyncio.to_thread(Picture.read, self.root / asked.image, self.settings.max_side)
        return await self.answering.ask(
            asked.key,
            prompt_version(asked.kind, asked.modality),
            lambda repetition: self.ask(asked, picture, repetition),
            lambda text: read(text, asked.kind, asked.modality) is not None,
        )


def _lacking(sample: StoredSample, fields: Collection[Part]) -> set[Part]:
    has = {"morphology": sample.annotation, "description": sample.description, "reasoning": sample.reasoning}
    return {part for part in fields if has[part] is None}
