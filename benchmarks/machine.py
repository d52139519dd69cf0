"""What a measurement was made on."""

import os
import platform
from pathlib import Path

import psutil

from dermo_ray.versions import installed_versions


def describe() -> dict[str, object]:
    """Processor, cores, memory, system and the versions that matter."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "versions": installed_versions(),
    }
