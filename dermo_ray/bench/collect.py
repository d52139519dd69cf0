"""The responses of one policy: kept ones first, new ones as they come, so that an interrupted evaluation goes on.

Invariants: a response is on the disk before it counts; one that the cache has is never asked for again; what stayed
without an answer is counted, scored as wrong, and asked again by a later run.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from dermo_ray.asking.answering import Answering, Tally, work_through
from dermo_ray.asking.answers import Answer
from dermo_ray.asking.cache import Cache
from dermo_ray.bench.answering import Respond
from dermo_ray.bench.responses import FORMAT, Response, key, methods_of
from dermo_ray.bench.tasks import BenchItem
from dermo_ray.config.asking import Backend
from dermo_ray.config.bench import BenchSettings, Method, PolicySettings


@dataclass
class Collected(Tally):
    """What a policy answered, and what came of every question; an item and a method make one."""

    responses: list[Response] = field(default_factory=list)
    """In the order of the items, and for each in that of the methods; those without an answer are left off."""


def questions(items: Sequence[BenchItem], settings: BenchSettings) -> list[tuple[BenchItem, Method]]:
    """Every item by every method that applies to it."""
    return [(item, method) for item in items for method in methods_of(item.task, settings)]


async def collect(
    items: Sequence[BenchItem],
    policy: PolicySettings,
    fingerprint: str,
    answering: Callable[[], AbstractAsyncContextManager[Respond]],
    cache: Cache,
    settings: BenchSettings,
    progress: Callable[[Collected], None],
) -> Collected:
    """Have `policy` answer every item by every method; `progress` is called after every one.

    `answering` opens the policy; it is not called where the cache has all. Raises `UserError` where the policy leaves
    too many questions in a row without an answer; what it answered is kept.
    """
    collected = Collected()
    backend: Backend = "pool" if policy.endpoint is None else "endpoint"
    asking = Answering(f"policy {policy.name}", policy.name, backend, settings, cache, collected, keep_unfit=False)
    asked = questions(items, settings)
    found: dict[int, Response] = {}
    missing: list[tuple[int, str]] = []
    for place, (item, method) in enumerate(asked):
        name = key(item, method, fingerprint, settings)
        record = asking.kept(name)
        if record is None:
            missing.append((place, name))
        else:
            found[place] = Response.model_validate_json(record.answer.text)
            progress(collected)

    async with _opened(answering, bool(missing)) as respond:

        async def work(place_and_key: tuple[int, str]) -> None:
            place, name = place_and_key
            item, method = asked[place]

            async def ask(_repetition: int) -> Answer:
                response = await respond(item, method)
                return Answer(response.model_dump_json(), response.prompt_tokens, response.completion_tokens)

            record = await asking.ask(name, f"bench-{FORMAT}", ask, lambda text: True)
            if record is not None:
                found[place] = Response.model_validate_json(record.answer.text)
            progress(collected)

        await work_through(missing, work, settings.concurrency)
    collected.responses = [found[place] for place in sorted(found)]
    return collected


@asynccontextmanager
async def _opened(
    answering: Callable[[], AbstractAsyncContextManager[Respond]], needed: bool
) -> AsyncIterator[Respond]:
    """The policy, or where nothing is left to ask one that is never asked."""
    if needed:
        async with answering() as respond:
            yield respond
    else:

        async def nobody(item: BenchItem, method: Method) -> Response:
            raise AssertionError(f"{item.id} is answered already")

        yield nobody
