r"""At which times a path is trained: distributions on [0, 1] by their quantile functions.

Training takes :math:`t = Q(u)` with *stratified* :math:`u`, one in each of ``n`` equal parts of [0, 1] in random order: each
time has the right distribution, and the mean over a batch varies far less than with independent ones.
"""

import abc
import dataclasses
import math

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check


class Times(abc.ABC):
    """A distribution of times."""

    @abc.abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Time below which the part ``u`` of the times lies."""


@dataclasses.dataclass(frozen=True)
class UniformTimes(Times):
    """Every time alike.

    Example:
        >>> UniformTimes().quantile(torch.tensor(0.25)).item()
        0.25
    """

    def quantile(self, u: Tensor) -> Tensor:
        return u


@dataclasses.dataclass(frozen=True)
class LogitNormalTimes(Times):
    r""":math:`t = 1 / (1 + e^{-y})` with normal :math:`y`: few times near the ends.

    Args:
        mean: Of :math:`y`; below 0 favours the side of the data.
        std: Of :math:`y`.

    Raises:
        ConfigError: If ``std`` is not positive.

    References:
        Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, Esser+ 2024, arXiv:2403.03206, sec. 3.1.

    Example:
        >>> LogitNormalTimes().quantile(torch.tensor(0.5)).item()
        0.5
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        ok = math.isfinite(self.mean) and 0 < self.std < math.inf
        check(ok, ConfigError, f"need a finite mean and a positive std, got {self.mean!r} and {self.std!r}.")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclasses.dataclass(frozen=True)
class PowerTimes(Times):
    r""":math:`t = u^p`, with density :math:`\propto t^{1/p - 1}`: a power above 1 favours the side of the data.

    Args:
        power: :math:`p > 0`.

    Raises:
        ConfigError: If ``power`` is not positive.

    Example:
        >>> PowerTimes(2.0).quantile(torch.tensor(0.5)).item()
        0.25
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check(0 < self.power < math.inf, ConfigError, f"power must be positive and finite, got {self.power!r}.")

    def quantile(self, u: Tensor) -> Tensor:
        return u**self.power


def stratified(n: int, x: Tensor) -> Tensor:
    """``(n,)`` numbers in [0, 1), one in each of ``n`` equal parts, in random order; dtype and device of ``x``."""
    place = torch.randperm(n, device=x.device).to(x.dtype)
    return (place + torch.rand(n, dtype=x.dtype, device=x.device)) / n
