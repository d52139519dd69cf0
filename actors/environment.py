"""Environment variables of a pool's processes, set before they import anything that reads them."""

from dermo_ray.config.pools import PoolSettings


def worker_environment(settings: PoolSettings) -> dict[str, str]:
    """Threads that match the reserved cores and don't spin while they wait, no look-ups on the hub, quiet libraries."""
    return {
        "OMP_NUM_THREADS": str(threads(settings)),
        "OMP_WAIT_POLICY": "PASSIVE",  # pools share cores: a thread that spins at a barrier starves the others
        # else DeepSpeed looks at what the machine has, not at what the pool was given
        "DS_ACCELERATOR": "cuda" if settings.on_gpu else "cpu",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }


def training_environment(settings: PoolSettings) -> dict[str, str]:
    """The same for processes that train; on CPUs, freed tensors leave their memory with glibc (`man mallopt`).

    Else it goes back to the system, which clears its pages each time that the next tensor asks for them.
    """
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    return worker_environment(settings) | ({} if settings.on_gpu else kept)


def threads(settings: PoolSettings) -> int:
    """CPU threads of one worker: its whole cores, at least one."""
    return max(1, int(settings.cpus_per_worker))
