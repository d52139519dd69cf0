"""A checksum of weights that does not depend on how they are laid out.

Engines fuse, cut and pad what learners hold apart (query, key and value become one matrix, rows are added to the
vocabulary), so hashes of tensors can't be compared. This is a sum over all values of a hash of each one's bits, which
is the same in any order and where zeros count for nothing. It tells one version of a model from another; it would not
notice two matrices that changed places.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_CHUNK = 1 << 22
"""Values hashed at once: their 64-bit hashes are eight bytes each."""
_FIRST, _SECOND = 0x1F3D5B79A2C4E681, 0x2545F4914F6CDD1D
"""Odd, so that multiplying by them loses no bit."""


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor]) -> int:
    """The sum, modulo 2^64, of a hash of the bits of every value in `tensors`; a value 0 adds 0.

    It runs where the tensors lie. Raises `KeyError` for a type of values that weights don't have.
    """
    total = 0
    for tensor in tensors:
        bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.dtype])
        for chunk in bits.split(_CHUNK):
            mixed = chunk.to(torch.int64) * _FIRST
            mixed ^= mixed >> 29
            mixed *= _SECOND
            total += int(mixed.sum())
    return total % 2**64
