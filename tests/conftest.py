"""Fixtures that several test modules share."""

from collections.abc import Iterator

import pytest

from jobs.cluster import ray_session


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray of two cores for the whole test run."""
    with ray_session(num_cpus=2):
        yield
