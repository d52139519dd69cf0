"""What the processes of a pool that trains find in their environment."""

from actors.environment import training_environment
from dermo_ray.config.pools import PoolSettings

KEPT = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}


def test_freed_memory_is_kept_on_cpus_alone() -> None:
    # on a GPU host memory holds little but weights that are being loaded, which are better given back
    assert training_environment(PoolSettings()).keys() >= KEPT
    assert not training_environment(PoolSettings(gpus_per_worker=1)).keys() & KEPT
