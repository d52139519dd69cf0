"""A Ray cluster that is not there is one line, within seconds."""

import time
from pathlib import Path

import pytest
import ray
from ray_nodes import free_port

from actors.steering import ADDRESS
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.errors import UserError
from jobs import cluster
from jobs.cluster import ray_session
from jobs.scale import scale


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens, as it is to a process that no cluster is connected to."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return f"127.0.0.1:{free_port()}"


def test_an_address_at_which_nobody_listens_is_named_within_seconds(
    nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    began = time.monotonic()
    with (
        pytest.raises(UserError, match=f"no Ray cluster lets this job in at RAY_ADDRESS={nobody}: start it"),
        ray_session(),
    ):
        pass
    assert time.monotonic() - began < 20


def test_scaling_a_run_whose_cluster_went_with_it_says_so(nobody: str, tmp_path: Path) -> None:
    (tmp_path / ADDRESS).write_text(f"{nobody}\ndesk of a run that was killed\n")
    with pytest.raises(UserError, match=f"no Ray cluster at {nobody} any more: the run has ended"):
        scale(ScaleConfig(run=tmp_path))


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "local"])
def test_other_ways_to_name_a_cluster_are_left_to_ray(address: str) -> None:
    cluster._knock(address)
