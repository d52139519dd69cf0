"""The guard over committed ratios: what it reads, and when it objects."""

import json

import pytest

from benchmarks.check import RATIOS, RESULTS, Ratio


@pytest.mark.parametrize("name", RATIOS)
def test_every_guarded_ratio_can_be_read_from_the_committed_result(name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    for ratio in RATIOS[name]:
        assert ratio.read(result) > 0
        assert ratio.holds(result, result)


@pytest.mark.parametrize(("now", "holds"), [(2.5, True), (2.0, True), (1.81, True), (1.79, False)])
def test_a_ratio_may_be_worse_by_its_margin_alone(now, holds):
    ratio = Ratio("one over another", lambda result: result["one"] / result["another"], margin=0.1)
    assert ratio.holds({"one": 2, "another": 1}, {"one": now, "another": 1}) is holds
