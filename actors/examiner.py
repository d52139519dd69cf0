"""The benchmark on engines of our own: a pool of Ray actors, each with one vLLM engine that takes whole items.

A worker reads an item's images itself and makes their views, so that no pixels travel; the rollouts of all items under
way share its engine. Items go one by one to the worker with the least to do, and an answer is kept as soon as it is
there, which batches of Ray Data would delay.

Invariant: an item is answered by the weights that its policy names, adapter included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from PIL import Image
from ray.exceptions import RayTaskError

from actors.adapters import Adapter
from actors.engine_process import start_engine
from actors.environment import threads, worker_environment
from actors.hosting import last_line
from actors.messages import PromptRefused, Sampled, Sampling
from actors.pool import CallFailed, Pool, PoolError, ray_pool
from dermo_ray.asking.answers import AskFailed
from dermo_ray.bench.answering import Asked, Respond, respond
from dermo_ray.bench.images import read_images
from dermo_ray.bench.responses import Response
from dermo_ray.bench.tasks import BenchItem
from dermo_ray.cct import Sample, decode_tokens
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.config.model import ModelSettings
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy

if TYPE_CHECKING:
    from actors.engine import Engine


class Examiner:
    """A Ray actor's class; its methods run side by side on the actor's event loop."""

    def __init__(self, model: ModelSettings, lora_rank: int | None, settings: BenchSettings) -> None:
        self._model, self._lora_rank = model, lora_rank
        self._settings = settings
        self._engine: Engine | None = None
        self._texts: dict[int, str] = {}
        """What single tokens spell."""
        self._taxonomy = Taxonomy.load(settings.items.taxonomy)

    async def start(self, adapter: Adapter | None = None) -> None:
        """Start the engine and load the adapter."""
        pool = self._settings.pool
        self._engine = start_engine(
            self._model, self._settings.engine, self._lora_rank, on_gpu=pool.on_gpu, threads=threads(pool)
        )
        if adapter is not None:
            await self._engine.load(adapter)

    async def answer(self, item: BenchItem, method: Method) -> Response:
        """Answer an item. Raises `AskFailed` where its images can't be read, or are too much for the engine."""
        images = await asyncio.to_thread(read_images, item.images, self._settings.max_pixels)
        return await respond(self.sample, item, images, method, self._settings, self._taxonomy)

    async def sample(
        self, image: Image.Image, prompt: Asked, *, temperature: float, seed: int, top_logprobs: int
    ) -> Sample:
        """One rollout. Raises `RuntimeError` before `start`."""
        if self._engine is None:
            raise RuntimeError("the examiner was not started")
        sampling = Sampling(temperature=temperature, max_tokens=prompt.max_tokens, seed=seed, top_logprobs=top_logprobs)
        images = [image, *prompt.further_images]
        try:
            prompt_ids, (completion,) = await self._engine.generate(
                prompt.turns, images, sampling, self._engine.version
            )
        except PromptRefused as refused:
            fix = "raise engine.max_model_len or set max_pixels where the prompt is too long"
            raise AskFailed("refused", f"{refused}; {fix}") from None
        return as_sample(self._engine, prompt_ids, completion, self._texts)

    async def close(self) -> None:
        """Stop the engine's processes; the actor can be killed afterwards."""
        if self._engine is not None:
            self._engine.close()


def as_sample(engine: Engine, prompt_ids: Sequence[int], completion: Sampled, texts: dict[int, str]) -> Sample:
    """A completion of an engine as CCT takes it, its tokens as text; `texts` remembers what single tokens spell."""
    tokenizer = engine.processor.tokenizer

    def decode(ids: list[int]) -> str:
        if len(ids) > 1:
            return str(tokenizer.decode(ids, skip_special_tokens=False))
        (token,) = ids
        if token not in texts:
            texts[token] = str(tokenizer.decode(ids, skip_special_tokens=False))
        return texts[token]

    return Sample(
        text=completion.text,
        tokens=decode_tokens(decode, completion.token_ids),
        logprobs=completion.logprobs,
        top_logprobs=[
            {decode([token]): logprob for token, logprob in likeliest.items()} for likeliest in completion.top_logprobs
        ],
        prompt_tokens=len(prompt_ids),
        completion_tokens=len(completion.token_ids),
    )


@asynccontextmanager
async def pool_policy(
    model: ModelSettings, adapter: Adapter | None, lora_rank: int | None, settings: BenchSettings
) -> AsyncIterator[Respond]:
    """Engines with these weights, on the Ray cluster that is connected."""
    pool = ray_pool(
        "benchmark",
        settings.pool,
        Examiner,
        (model, lora_rank, settings),
        worker_environment(settings.pool),
        start_timeout=settings.engine.start_timeout,
        farewell="close",
    )
    pool.start_arguments = () if adapter is None else (adapter,)

    try:
        try:
            await pool.open()
        except PoolError as error:
            raise UserError(f"no engine for the benchmark: {error}") from error
        yield answers_of(pool, settings.deadline)
    finally:
        await pool.close()


def answers_of(pool: Pool, deadline: float) -> Respond:
    """The pool's answers. What goes wrong with one item is an `AskFailed`, what ends the pool a `UserError`."""

    async def answer(item: BenchItem, method: Method) -> Response:
        try:
            response: Response = await pool.call("answer", item, method, timeout=deadline)
        except AskFailed as failure:  # Ray's own subclass of it comes with a traceback
            raise AskFailed(failure.reason, failure.detail) from None
        except RayTaskError as error:
            raise AskFailed("worker_error", last_line(error)) from error
        except CallFailed as error:
            raise AskFailed("worker_lost", str(error)) from error
        except PoolError as error:
            raise UserError(f"the benchmark's engines failed; what they answered is kept: {error}") from error
        return response

    return answer
