"""Noise without a generator: uniform numbers that are a fixed function of whole numbers, equal on every machine."""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio as a signed number
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def hashed_uniform(key: Tensor, samples: int, seed: int = 0) -> Tensor:
    """Independent-looking numbers in the open unit interval, ``(samples, *batch, d)``, float64.

    Every number is a hash of the whole row ``key``, its own place and the seed: it does not depend on the other rows, the
    batch or the order of summation, since integer arithmetic wraps around exactly.

    Args:
        key: Whole numbers, ``(*batch, d)`` int64.
        samples: Number of sets.
        seed: Another seed gives other numbers.

    References:
        Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, doi:10.1145/2660193.2660195 (splitmix64).
    """
    d = key.shape[-1]
    place = torch.arange(1, (samples + 1) * d + 1, device=key.device) * _GOLDEN
    weight = _mix(place[:d] ^ seed) | 1
    row = _mix((key * weight).sum(-1)).unsqueeze(-1)
    counter = place[d:].unflatten(0, (samples, *(1,) * (key.dim() - 1), d))
    bits = _mix(row + counter)
    return (_shift(bits, 12).double() + 0.5) * 2.0**-52


def _mix(h: Tensor) -> Tensor:
    """Finaliser of splitmix64: every bit of the result depends on every bit of ``h``."""
    h = (h ^ _shift(h, 30)) * _FIRST
    h = (h ^ _shift(h, 27)) * _SECOND
    return h ^ _shift(h, 31)


def _shift(h: Tensor, n: int) -> Tensor:
    """Logical shift to the right: the sign bit moves too."""
    return (h >> n) & ((1 << (64 - n)) - 1)
