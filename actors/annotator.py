"""The teacher on engines of our own: a pool of Ray actors, each with one vLLM engine.

Invariant: an answer is decoded under the JSON Schema of its question, so that it can break it only by being cut off at
the longest length, or by stating a feature twice, which grammars can't forbid.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image
from ray.exceptions import RayTaskError

from actors.engine_process import start_engine
from actors.environment import threads, worker_environment
from actors.messages import PromptRefused, Sampling, sampling_seed
from actors.pool import Pool, PoolError, ray_pool
from dermo_ray.asking.answers import Answer, AskFailed
from dermo_ray.config.teacher import TeacherPoolSettings, TeacherSettings
from dermo_ray.data.teacher.ask import Ask, Picture
from dermo_ray.data.teacher.questions import Question
from dermo_ray.data.teacher.schema import decoding_schema
from dermo_ray.prompts import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from actors.engine import Engine


class Annotator:
    """A Ray actor's class; its methods run side by side on the actor's event loop."""

    def __init__(self, settings: TeacherPoolSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    async def start(self) -> None:
        """Start the engine."""
        settings = self._settings
        self._engine = start_engine(
            settings.model, settings.engine, None, on_gpu=settings.on_gpu, threads=threads(settings)
        )

    async def answer(self, question: Question, picture: Picture, sampling: Sampling) -> Answer:
        """Answer one question. Raises `AskFailed` where the engine refuses it, and `RuntimeError` before `start`."""
        if self._engine is None:
            raise RuntimeError("the annotator was not started")
        with Image.open(BytesIO(picture.data)) as file:
            image = file.convert("RGB")
        prompt = f"{IMAGE_PLACEHOLDER}\n{question.prompt}"
        try:
            prompt_ids, (completion,) = await self._engine.generate(prompt, [image], sampling)
        except PromptRefused as refusal:
            raise AskFailed("refused", str(refusal)) from None
        return Answer(completion.text, len(prompt_ids), len(completion.token_ids))

    async def close(self) -> None:
        """Stop the engine's processes; the actor can be killed afterwards."""
        if self._engine is not None:
            self._engine.close()


@asynccontextmanager
async def pool_teacher(settings: TeacherSettings) -> AsyncIterator[Ask]:
    """The engines of `settings.pool`, which must be set, on the Ray cluster that is connected."""
    if settings.pool is None:
        raise ValueError("the settings name no pool")
    pool = ray_pool(
        "teacher",
        settings.pool,
        Annotator,
        (settings.pool,),
        worker_environment(settings.pool),
        start_timeout=settings.pool.engine.start_timeout,
        farewell="close",
    )
    try:
        await pool.open()
        yield pool_ask(pool, settings)
    finally:
        await pool.close()


def pool_ask(pool: Pool, settings: TeacherSettings) -> Ask:
    """Asks the workers of `pool`; a question that costs too many workers, or is late on too many, has failed alone."""

    async def ask(question: Question, picture: Picture, repetition: int) -> Answer:
        sampling = Sampling(
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=sampling_seed(int(question.key, 16), repetition),
            json_schema=json.dumps(decoding_schema(question.schema)),
        )
        try:
            answer: Answer = await pool.call("answer", question, picture, sampling, timeout=settings.deadline)
        except PoolError as error:
            if pool.failed:
                raise
            raise AskFailed("no_worker_answered", str(error)) from error
        except RayTaskError as error:  # of which Ray makes an `AskFailed`, too, that says all of its traceback
            if isinstance(error.cause, AskFailed):
                raise error.cause from None
            raise
        return answer

    return ask
