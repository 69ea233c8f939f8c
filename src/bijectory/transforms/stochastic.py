r"""Layers whose log-determinant is an estimate, and how far off it may be.

Such a layer keeps the random numbers that it uses as part of itself, so that it is a function. Its error is then the same
whenever it is asked, and no average over rows takes it away. To see it, ``estimate_with_error`` asks a copy in which every
layer draws anew on its own, and repeats that: the mean of :math:`k` results :math:`l_i`, and

.. math:: \text{standard error} = \sqrt{\frac{1}{k (k - 1)} \sum_i (l_i - \bar l)^2} .

The variances of independent layers add up in it by themselves. A 95 % interval is the mean ± :math:`q` standard errors with
the quantile :math:`q` of Student's law with :math:`k - 1` degrees of freedom: 2.13 for 16 samples, 1.98 for 100. It is
narrower than it should be where the law of an estimate is much skewed, as that of a roulette that hardly ever goes on.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.estimates import mean_and_error
from bijectory.transforms.base import Transform

M = TypeVar("M", bound=nn.Module)


class Stochastic(Transform):
    """A transform that may estimate its log-determinant from random numbers; ``exact`` is False if it does.

    A subclass draws anew from ``source`` where there is one.

    Attributes:
        source: None, except in the copies that ``estimate_with_error`` makes.
    """

    source: torch.Generator | None = None


def estimate_with_error(
    module: M, call: Callable[[M], Tensor], samples: int = 16, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard error of a number that hangs on the draws of stochastic layers. No gradients.

    Works on a copy in evaluation mode. Without stochastic layers one call is enough, and the error is 0.

    Args:
        module: A transform, or a density with some in it; stays as it is.
        call: What to compute with it.
        samples: Number of independent repetitions, at least 2.
        generator: Source of randomness; the global one if None.

    Returns:
        Two tensors shaped like the result of ``call``.

    Raises:
        ConfigError: If ``samples < 2``.

    Example:
        >>> from bijectory.nets import TimeMLP
        >>> from bijectory.transforms import Continuous
        >>> layer = Continuous(TimeMLP(3), trace="hutchinson")
        >>> ladj, error = estimate_with_error(layer, lambda layer: layer.inverse(torch.ones(5, 3))[1])
        >>> ladj.shape, bool((error > 0).all())
        (torch.Size([5]), True)
    """
    check(samples >= 2, ConfigError, f"a standard error needs at least 2 samples, got {samples}.")
    twin = copy.deepcopy(module).eval()
    layers = [m for m in twin.modules() if isinstance(m, Stochastic) and not m.exact]
    with torch.no_grad():
        if not layers:
            value = call(twin)
            return value, torch.zeros_like(value)
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for layer in layers:
            layer.source = generator
        return mean_and_error(torch.stack([call(twin) for _ in range(samples)]))
