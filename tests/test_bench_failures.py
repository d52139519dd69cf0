"""One bad item ends nothing: it is counted, told, scored as wrong and asked again, on engines and on servers alike."""

import asyncio
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ray.exceptions import RayTaskError

from actors.examiner import Examiner, answers_of
from actors.messages import PromptRefused, Sampled
from actors.pool import CallFailed, PoolError
from dermo_ray.asking.answers import AskFailed
from dermo_ray.bench.columns import columns
from dermo_ray.bench.endpoint import endpoint_policy
from dermo_ray.bench.images import read_images
from dermo_ray.bench.responses import key
from dermo_ray.bench.tasks import BenchItem
from dermo_ray.errors import UserError
from dermo_ray.report.cases import cases
from dermo_ray.taxonomy import Taxonomy
from tests import openai_stub
from tests.bench_cases import choice_item, lettered, picture, response, settings


def damaged(folder: Path) -> str:
    path = folder / "damaged.png"
    path.write_bytes(Path(picture(folder)).read_bytes()[:60])
    return str(path)


class FakeEngine:
    """Takes prompts with images up to a size."""

    version = None
    processor = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids, **_: "A"))

    async def generate(self, turns: Any, images: list[Image.Image], sampling: Any, version: Any) -> Any:
        if images[0].width > 64:
            raise PromptRefused("The decoder prompt (length 9000) is longer than the maximum model length of 4096.")
        return [1, 2], (Sampled([7], [-0.1], "A", "stop"),)


def examined(folder: Path, item: BenchItem, **values: Any) -> Any:
    examiner = Examiner(None, None, settings(folder, **values))  # type: ignore[arg-type]
    examiner._engine = FakeEngine()  # type: ignore[assignment]
    return asyncio.run(examiner.answer(item, "greedy"))


def test_an_image_that_can_not_be_read_fails_its_item_on_an_engine_and_on_a_server(tmp_path: Path) -> None:
    item = choice_item("0", images=(damaged(tmp_path),))
    with pytest.raises(AskFailed, match="unreadable_image") as caught:
        examined(tmp_path, item)
    assert caught.value.reason == "unreadable_image"

    async def ask() -> None:
        with openai_stub.serving(lambda body, count: openai_stub.completion("A")) as server:
            policy = {"name": "policy", "endpoint": {"base_url": server.base_url, "model": "m"}}
            config = settings(tmp_path, policies=[policy])
            async with endpoint_policy(config.policies[0], config, Taxonomy.load()) as respond:
                await respond(item, "greedy")

    with pytest.raises(AskFailed, match="unreadable_image"):
        asyncio.run(ask())
    with pytest.raises(AskFailed, match="unreadable_image"):
        read_images((str(tmp_path / "absent.png"),))


def test_a_prompt_that_is_too_long_fails_its_item_and_says_what_helps(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGB", (90, 90)).save(large)
    item = choice_item("0", images=(str(large),))
    with pytest.raises(AskFailed, match="maximum model length of 4096") as caught:
        examined(tmp_path, item)
    assert caught.value.reason == "refused"
    assert "set max_pixels" in caught.value.detail
    assert examined(tmp_path, item, max_pixels=1024).texts == ("A",)


def test_images_are_scaled_down_to_the_limit_and_answers_kept_under_it(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (400, 100)).save(path)
    (small,) = read_images((str(path),), 10_000)
    assert small.size == (200, 50)
    assert read_images((str(path),), 40_000)[0].size == (400, 100)
    item = choice_item("0", images=(str(path),))
    keys = {key(item, "greedy", "w", settings(tmp_path, max_pixels=n)) for n in (None, 10_000, 20_000)}
    assert len(keys) == 3


def test_an_image_that_is_gone_does_not_keep_an_evaluation_from_starting(tmp_path: Path) -> None:
    item = choice_item("0", images=(str(tmp_path / "gone.png"),))
    assert key(item, "greedy", "w", settings(tmp_path))


def test_a_failure_comes_back_from_another_process_as_it_was() -> None:
    failure = pickle.loads(pickle.dumps(AskFailed("refused", "too long")))
    assert (failure.reason, failure.detail, str(failure)) == ("refused", "too long", "refused: too long")


class FakePool:
    """A pool whose calls all end in one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def call(self, *arguments: Any, timeout: float) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (AskFailed("refused", "too long"), AskFailed, "refused: too long"),
        (RayTaskError("f", "trace", AskFailed("refused", "long")).as_instanceof_cause(), AskFailed, "^refused: long$"),
        (RayTaskError("f", "trace\nKeyError: 3", KeyError(3)).as_instanceof_cause(), AskFailed, "^worker_error: KeyE"),
        (CallFailed("answer lost 5 workers"), AskFailed, "worker_lost: answer lost 5 workers"),
        (PoolError("worker 3 died, as did 3 before it"), UserError, "what they answered is kept: worker 3 died"),
    ],
)
def test_what_one_item_costs_the_pool_is_its_own_failure_and_what_ends_the_pool_one_line(
    error: Exception, outcome: type[Exception], words: str
) -> None:
    with pytest.raises(outcome, match=words):
        asyncio.run(answers_of(FakePool(error), 1.0)(choice_item("0"), "greedy"))  # type: ignore[arg-type]


def test_an_item_whose_image_can_not_be_read_is_no_example(tmp_path: Path) -> None:
    items = [choice_item("0", images=(damaged(tmp_path),)), choice_item("1", images=(picture(tmp_path),))]
    given = [response(items[1], lettered(0))]
    answers = columns(items, given, Taxonomy.load())
    assert answers is not None
    shown = cases({"t2.1": {"greedy": answers}}, given, 2)
    assert [case.item.id for case in shown] == ["t2.1/1"]
