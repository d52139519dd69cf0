"""The committed figures of CCT: what the benchmark asks, where it writes, and what the page says of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bookkeeping
from benchmarks.cct import (
    MORE_PLANS,
    answered_alone,
    command,
    figures,
    planned_otherwise,
    result_name,
    reweighted,
    settings_for,
)
from benchmarks.page import page
from benchmarks.rows import SECTIONS
from dermo_ray.bench.columns import Columns, columns
from dermo_ray.bench.responses import Response, Vote
from dermo_ray.cct import plan
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.taxonomy import Taxonomy
from tests.bench_cases import choice_item, lettered, response

ACCURACY: dict[Method, float] = {"greedy": 0.6, "majority": 0.62, "cct": 0.7, "cct_early": 0.7}


def measured(shift: dict | None) -> dict:
    """The result of 100 questions, on which CCT is right more often than the others."""
    items = [choice_item(str(number)) for number in range(100)]
    draw = np.random.default_rng(0)
    given: dict[Method, list[Response]] = {
        method: [
            response(item, lettered(0 if number < 100 * share else 1), method, float(draw.random()), tokens)
            for number, item in enumerate(items)
        ]
        for (method, share), tokens in zip(ACCURACY.items(), (10, 80, 80, 40), strict=True)
    }
    found: dict[Method, Columns | None] = {m: columns(items, r, Taxonomy.load()) for m, r in given.items()}
    every = figures(given, {method: column for method, column in found.items() if column is not None})
    runs = {"one": every, "two": every}
    return {"command": "python -m benchmarks.cct RUN", "shift": shift, "runs": runs, "all": every}


def test_each_kind_of_images_has_a_result_of_its_own_and_a_section_on_the_page() -> None:
    kinds = [(False, None), (True, None), (True, ["ham10000"])]
    names = [result_name(held_out=held_out, sources=sources) for held_out, sources in kinds]
    assert names == ["cct", "cct_held_out", "cct_held_out_ham10000"]
    assert {*names, "cct_throughput"} <= SECTIONS.keys()
    assert command(held_out=True, sources=["ham10000"]) == (
        "python -m benchmarks.cct RUN ... --held-out --sources ham10000"
    )


@pytest.mark.parametrize("run", ["runs/benchmark-phantoms-seed0", "runs/benchmark-ham10000-seed0"])
def test_the_benchmark_asks_about_the_sources_it_is_told_to(run: str) -> None:
    settings = settings_for(Path(run), Path(run) / "data", "held-out", ["ham10000"])
    assert settings.items.sources == ["ham10000"]
    assert settings.policies[0].run == Path(run).absolute() / "mavic"
    assert settings_for(Path(run), Path(run) / "data", "held-out").items.sources is None


@pytest.mark.parametrize(("name", "rollouts"), zip(MORE_PLANS, (8, 8, 8, 4), strict=True))
def test_another_plan_costs_no_more_than_the_usual_one(name: str, rollouts: int) -> None:
    usual = settings_for(Path("run"), Path("run/data"), "shifted")
    other = planned_otherwise(usual, name)
    assert other.out != usual.out
    assert other.cache == usual.cache
    assert BenchSettings.model_validate(other.model_dump()) == other
    for modality in ("clinical", "dermoscopic"):
        assert len(plan(other.cct, modality, 0)) == rollouts <= len(plan(usual.cct, modality, 0))


def test_the_page_says_what_cct_is_worth_beside_what_is_wanted() -> None:
    written = page({"cct": measured({"size": 96})})
    assert "## CCT on phantoms unlike those of training" in written
    assert "accuracy over 100 questions of 2 runs" in written
    assert "greedy 60.0%, majority 62.0%, cct 70.0%, cct_early 70.0%" in written
    assert "| CCT over one greedy answer | +10.0 points [+" in written
    assert "at least +2 points, interval above 0 |" in written
    assert "| tokens saved by stopping early | 50% | at least 40 % |" in written
    assert "not below 0 |" in written
    assert "at least +3 points |" in written
    unshifted = page({"cct_held_out_ham10000": measured(None)})
    assert "## CCT on held-out lesions of HAM10000" in unshifted
    assert "at least +" not in unshifted


def test_the_page_shows_what_reporting_takes_with_one_answer_and_with_all() -> None:
    took = {"items": 33999, "seconds": 20.0, "peak_gib": 0.5}
    result = {"command": "c", "greedy": took | {"answers": 33999}, "all_methods": took | {"answers": 130596}}
    written = page({"bookkeeping": result})
    assert "| 33,999 items, one greedy answer each: 33,999 answers" in written
    assert "| 33,999 items, all four ways of answering, as by default: 130,596 answers" in written
    assert written.count("at most 60 s, 2 GiB |") == 2


def test_bookkeeping_is_timed_over_the_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: replace(task, items=6) for name, task in bookkeeping.TASKS.items()}
    monkeypatch.setattr(bookkeeping, "TASKS", few)
    seen = []
    chosen = bookkeeping.cases
    monkeypatch.setattr(bookkeeping, "cases", lambda *given: seen.append(chosen(*given)) or seen[-1])
    taken = bookkeeping.measure(("greedy", "majority"))
    assert (taken["items"], taken["answers"]) == (66, 66 + 9 * 6)
    assert len(seen[0]) == 6


def test_the_page_says_what_cct_costs_beside_the_engine() -> None:
    result = {"command": "c", "share": 0.912, "tokens_per_second": {"raw": [100, 110, 120], "cct": [90, 100, 101]}}
    written = page({"cct_throughput": result})
    assert "| 100 and 110 |" in written
    assert "| 0.91 | at least 0.85 |" in written


def test_other_weights_are_tried_on_the_same_votes() -> None:
    items = [choice_item(str(number)) for number in range(4)]
    options = items[0].questions[0].options
    cast = [(options[0], 0.9), (options[1], 0.2), (options[1], 0.2)]  # one sure vote against two that are not
    votes = tuple(Vote(view="identity", answer=answer, confidence=sure, weight=1) for answer, sure in cast)
    given = [response(item, lettered(0), "cct") for item in items]
    given = [one.model_copy(update={"steps": (one.steps[0].model_copy(update={"votes": votes}),)}) for one in given]
    taxonomy = Taxonomy.load()
    plain = columns(items, given, taxonomy)
    assert plain is not None
    settings = settings_for(Path("run"), Path("data"), "shifted")
    counted = reweighted(plain, given, settings, taxonomy, alpha=0, beta=0)
    assert counted.answers == [options[1]] * 4
    assert not counted.right.any()
    trusting = reweighted(plain, given, settings, taxonomy, alpha=2, beta=0)
    assert trusting.answers == [options[0]] * 4
    assert trusting.right.all()


def test_one_view_alone_answers_with_its_first_rollout() -> None:
    items = [choice_item(str(number)) for number in range(2)]
    right, wrong = items[0].questions[0].options[:2]
    cast = [("identity", right), ("half_turn", wrong), ("identity", wrong), ("half_turn", right)]
    votes = tuple(Vote(view=view, answer=answer, confidence=1, weight=1) for view, answer in cast)
    given = [response(item, lettered(0), "cct") for item in items]
    given = [one.model_copy(update={"steps": (one.steps[0].model_copy(update={"votes": votes}),)}) for one in given]
    plain = columns(items, given, Taxonomy.load())
    assert plain is not None
    assert answered_alone(plain, given, "identity").right.all()
    assert not answered_alone(plain, given, "half_turn").right.any()
