"""Memory of GPUs by Ray's name for them (`ray.util.accelerators`)."""

from collections.abc import Mapping
from types import MappingProxyType

_GIGABYTES = {
    "V100": 16,
    "T4": 16,
    "A10G": 24,
    "L4": 24,
    "L40S": 48,
    "A100": 40,
    "A100-40G": 40,
    "A100-80G": 80,
    "RTX-PRO-6000": 96,
    "H20": 96,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""What the vendor's data sheets say, the smallest variant where there are several."""

GPUS: Mapping[str, float] = MappingProxyType({name: size * 1e9 / 2**30 for name, size in _GIGABYTES.items()})
"""GiB of a GPU: data sheets count in powers of ten, and take nothing off for error correction."""
