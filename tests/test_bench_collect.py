"""Answers are kept: an evaluation that was cut off goes on, and nothing is asked twice or taken for something else."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dermo_ray.asking.answers import AskFailed
from dermo_ray.asking.cache import opened
from dermo_ray.bench.collect import Collected, collect
from dermo_ray.bench.responses import key, weights_hash
from dermo_ray.errors import UserError
from tests.bench_cases import choice_item, lettered, open_item, picture, response, settings


class Policy:
    """Answers every item alike, until it is to fail."""

    def __init__(self, failing: set[str] = frozenset(), crash_after: int | None = None) -> None:
        self.failing, self.crash_after = failing, crash_after
        self.asked: list[tuple[str, str]] = []
        self.opened = 0

    @asynccontextmanager
    async def answering(self):
        self.opened += 1

        async def respond(item, method):
            if self.crash_after is not None and len(self.asked) >= self.crash_after:
                raise RuntimeError("cut off")
            self.asked.append((item.id, method))
            if item.id in self.failing:
                raise AskFailed("timeout", "too slow")
            return response(item, lettered(0), method)

        yield respond


def collected(tmp_path: Path, items, policy: Policy, **values) -> Collected:
    config = settings(tmp_path, **{"concurrency": 1, **values})
    with opened(config.cache) as cache:
        return asyncio.run(
            collect(items, config.policies[0], "weights", policy.answering, cache, config, lambda done: None)
        )


ITEMS = [choice_item(str(number)) for number in range(5)]


def test_an_interrupted_evaluation_asks_only_for_the_rest(tmp_path):
    first = Policy(crash_after=7)
    with pytest.raises(RuntimeError, match="cut off"):
        collected(tmp_path, ITEMS, first)
    second = Policy()
    done = collected(tmp_path, ITEMS, second)
    assert (done.cached, done.asked) == (7, 13)
    assert sorted(first.asked + second.asked) == sorted(
        (item.id, method) for item in ITEMS for method in ("greedy", "majority", "cct", "cct_early")
    )
    assert len(done.responses) == 20


def test_where_all_is_kept_the_policy_is_not_even_started(tmp_path):
    collected(tmp_path, ITEMS, Policy())
    again = Policy()
    done = collected(tmp_path, ITEMS, again)
    assert (again.opened, done.cached) == (0, 20)
    assert [(r.item, r.method) for r in done.responses[:2]] == [("t2.1/0", "greedy"), ("t2.1/0", "majority")]


def test_what_stays_without_an_answer_is_counted_and_asked_again_later(tmp_path):
    done = collected(tmp_path, ITEMS, Policy(failing={"t2.1/1"}), methods=["greedy"])
    assert (done.asked, dict(done.failed), len(done.responses)) == (4, {"timeout": 1}, 4)
    later = Policy()
    assert len(collected(tmp_path, ITEMS, later, methods=["greedy"]).responses) == 5
    assert later.asked == [("t2.1/1", "greedy")]


def test_a_policy_that_answers_nothing_stops_the_evaluation(tmp_path):
    with pytest.raises(UserError, match="policy policy left 2 questions in a row without an answer"):
        collected(tmp_path, ITEMS, Policy(failing={item.id for item in ITEMS}), give_up_after=2)


def test_descriptions_are_answered_once(tmp_path):
    policy = Policy()
    collected(tmp_path, [open_item(task="t1.1")], policy)
    assert policy.asked == [("t1.1/0", "greedy")]


def test_a_response_is_kept_under_all_that_it_depends_on(tmp_path):
    item = choice_item("0", images=(picture(tmp_path, "0.png"),))
    config = settings(tmp_path)
    others = [
        key(item, "cct", "other weights", config),
        key(item, "greedy", "weights", config),
        key(choice_item("0", right=1, images=item.images), "cct", "weights", config),
        key(choice_item("0", images=(picture(tmp_path, "1.png", (0, 0, 0)),)), "cct", "weights", config),
        key(item, "cct", "weights", settings(tmp_path, instruct=True)),
        key(item, "cct", "weights", settings(tmp_path, cct={"alpha": 2})),
        key(item, "cct", "weights", settings(tmp_path, max_tokens={"choice": 5})),
    ]
    same = key(item, "cct", "weights", config)
    moved = choice_item("0", images=(picture(tmp_path, "copy.png"),))
    assert len({same, *others}) == 1 + len(others)
    assert key(moved, "cct", "weights", config) == same
    # what only one method depends on leaves the others alone
    greedy = key(item, "greedy", "weights", config)
    assert greedy == key(item, "greedy", "weights", settings(tmp_path, cct={"alpha": 2}))
    vote = key(item, "majority", "weights", config)
    turned = {"views": {"dermoscopic": ("identity", "half_turn")}, "samples_per_view": 4}
    assert vote == key(item, "majority", "weights", settings(tmp_path, cct={"alpha": 2, **turned}))
    for change in ({"samples_per_view": 1}, {"temperature": 1.0}, {"tau": 0.9}):
        assert vote != key(item, "majority", "weights", settings(tmp_path, cct=change))
    adapted = settings(tmp_path, cct={"adaptation": {"prior_shift": True}})
    assert key(item, "cct", "weights", adapted) == same


def test_diagnoses_that_were_read_by_another_tree_are_asked_for_again(tmp_path):
    own = [tmp_path / name for name in ("a.yaml", "copy.yaml", "b.yaml")]
    for path, synonyms in zip(own, ([], [], ["Black Cancer"]), strict=True):
        path.write_text(json.dumps({"Neoplasms": {"Malignant": {"Melanoma": synonyms}}}))
    trees = [settings(tmp_path, items={"prepared": tmp_path, "taxonomy": path}) for path in (None, *own)]
    keys = [key(open_item(), "cct", "weights", config) for config in trees]
    assert len(set(keys)) == 3
    assert keys[1] == keys[2]
    # options are in the question: what they mean does not hang on a tree
    assert len({key(choice_item("0"), "cct", "weights", config) for config in trees}) == 1


def test_other_weights_have_another_fingerprint(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    a, b, c = (weights_hash([tmp_path / name], {"dtype": "float32"}) for name in "abc")
    assert a == b != c
    assert weights_hash([tmp_path / "a"], {"dtype": "bfloat16"}) != a
    assert weights_hash([tmp_path / "a", tmp_path / "c"], {"dtype": "float32"}) != a
