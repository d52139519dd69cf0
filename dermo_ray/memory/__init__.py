"""Whether a run fits into its GPUs, computed before anything starts."""

from dermo_ray.memory.architecture import PUBLISHED, Architecture
from dermo_ray.memory.gpus import GPUS
from dermo_ray.memory.pools import PoolMemory
from dermo_ray.memory.report import MemoryReport, memory_report

__all__ = ["GPUS", "PUBLISHED", "Architecture", "MemoryReport", "PoolMemory", "memory_report"]
