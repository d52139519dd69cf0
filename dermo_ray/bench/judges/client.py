"""Judging by a model behind an OpenAI-compatible server.

Invariants: a verdict that the cache has is never paid for again; an answer without a verdict is never scored in its
place, so that a judge's failure can't pass for a bad answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dermo_ray.asking.answering import Answering, Tally, work_through
from dermo_ray.asking.cache import opened
from dermo_ray.asking.endpoint import chat_client, request_body
from dermo_ray.bench.judges.answers import Judgement, OpenAnswer
from dermo_ray.bench.judges.questions import JudgeQuestion, prompt_version, question
from dermo_ray.bench.judges.rubrics import SHARES, OpenTask, Part, Verdict, combined, graded
from dermo_ray.bench.judges.verdicts import read, verdict_schema
from dermo_ray.config.judge import JudgeSettings


@dataclass
class JudgeReport(Tally):
    """What a judge found, and what came of every question."""

    judgements: list[Judgement | None] = field(default_factory=list)
    """In the order of the answers; None for an answer that got no verdict at all."""

    @property
    def unjudged(self) -> int:
        """Answers without a verdict."""
        return self.judgements.count(None)


async def judge(
    answers: Sequence[OpenAnswer], settings: JudgeSettings, progress: Callable[[JudgeReport], None]
) -> JudgeReport:
    """Have every answer judged as often as its task asks for; `progress` is called after every question.

    A blank answer scores 0 unasked; the score of others is the mean of the votes that came. Raises `UserError` where
    the environment lacks the key, and where the judge refuses to work or no longer answers; the verdicts so far are
    kept.
    """
    report = JudgeReport()
    questions = [questions_of(answer, settings) for answer in answers]
    votes: list[list[Verdict | None]] = [[None] * len(asked) for asked in questions]
    async with chat_client(settings.endpoint, settings, "the judge") as chat:
        with opened(settings.cache) as cache:
            asking = Answering(
                "the judge", settings.endpoint.model, "endpoint", settings, cache, report, keep_unfit=False
            )

            async def work(place_and_vote: tuple[int, int]) -> None:
                place, vote = place_and_vote
                asked = questions[place][vote]
                body = request_body(
                    settings.endpoint,
                    asked.prompt,
                    "verdict",
                    verdict_schema(asked.task),
                    temperature=settings.temperature,
                    max_tokens=settings.max_tokens,
                )
                record = asking.kept(asked.key) or await asking.ask(
                    asked.key,
                    prompt_version(asked.task),
                    lambda _repetition: chat(body),
                    lambda text: read(text, asked.task) is not None,
                )
                votes[place][vote] = None if record is None else read(record.answer.text, asked.task)
                progress(report)

            every = ((place, vote) for place, asked in enumerate(questions) for vote in range(len(asked)))
            await work_through(every, work, settings.concurrency)
    report.judgements = [
        _judgement(answer, [vote for vote in found if vote is not None])
        for answer, found in zip(answers, votes, strict=True)
    ]
    return report


def questions_of(answer: OpenAnswer, settings: JudgeSettings) -> list[JudgeQuestion]:
    """What has to be asked about an answer: one question a vote, none about a blank answer."""
    votes = 0 if answer.blank else getattr(settings.votes, answer.task.replace(".", "_"))
    return [question(answer, vote, settings) for vote in range(votes)]


def _judgement(answer: OpenAnswer, votes: Sequence[Verdict]) -> Judgement | None:
    if answer.blank:
        parts: dict[Part, float] = dict.fromkeys(SHARES[answer.task], 0.0)
    elif votes:
        parts = _mean_parts(answer.task, votes)
    else:
        return None
    return Judgement(combined(answer.task, parts), parts, "judge", tuple(votes))


def _mean_parts(task: OpenTask, votes: Sequence[Verdict]) -> dict[Part, float]:
    every = [graded(task, vote) for vote in votes]
    return {part: sum(parts[part] for parts in every) / len(every) for part in every[0]}
