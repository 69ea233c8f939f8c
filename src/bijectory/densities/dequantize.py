r"""Images have whole numbers as pixels; a flow needs continuous ones. Dequantization puts noise between them.

A density :math:`p(v)` of continuous pixels in data units, :math:`v \in [0, L)^d`, gives the level ``x`` the probability of
its cell, :math:`P(x) = \int_{[0,1)^d} p(x + u)\,du`. The integral is bounded from below by noise from any :math:`q(u|x)`:

.. math:: \log P(x) \ge E_{u_1 \dots u_K \sim q} \log \frac1K \sum_k \frac{p(x + u_k)}{q(u_k | x)},

with one sample the evidence bound (Theis et al. 2016, arXiv:1511.01844, sec. 3.1, for uniform noise; Ho et al. 2019,
arXiv:1902.00275, eq. 12, for learned noise), with more the importance-weighted one (Burda et al. 2016, arXiv:1509.00519,
eq. 8), which never falls with ``K`` and tends to :math:`\log P(x)`.

Evaluation must give one number for one image. So ``log_prob`` takes noise that is a fixed pseudo-random function of the
image itself (an integer hash), the same in every batch, order and precision; training takes fresh noise by ``bound``.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bijectory.densities.base import Density, as_event_shape
from bijectory.densities.flow import Flow
from bijectory.densities.normal import StandardNormal
from bijectory.densities.validate import check_batches, check_events
from bijectory.errors import ConfigError, check, check_type
from bijectory.ops.hashing import hashed_uniform
from bijectory.ops.shape import expand_to_context

WHOLE = 1e-4  # a value this near to a whole number is one
Number = TypeVar("Number", float, np.ndarray, Tensor)


class Dequantized(Density):
    r"""Discrete distribution of images with whole-number pixels, from a density of continuous ones.

    ``log_prob`` is a lower bound on :math:`\log P(x)`, see the module; it is deterministic. Whatever is not a level
    ``0 ... levels - 1`` has probability 0. Draws are those of the flow, rounded down to their level.

    Args:
        flow: Density :math:`p` of continuous pixels in ``[0, levels)``, data units.
        levels: Number ``L`` of levels.
        noise: Density :math:`q(u|x)` of the noise on :math:`(0, 1)^d`: a flow with a standard normal base, its context the
            pixels scaled to [-1, 1], flat, ``(*batch, d)``; None for uniform noise.
        samples: Number ``K`` of noise samples that ``log_prob`` averages over.
        seed: Of the noise of ``log_prob``.

    Raises:
        ConfigError: If ``levels`` or ``samples`` is out of range, or the noise does not fit the flow.

    References:
        Theis, van den Oord, Bethge 2016, arXiv:1511.01844. Ho et al. 2019, Flow++, arXiv:1902.00275. Burda, Grosse,
        Salakhutdinov 2016, arXiv:1509.00519.

    Example:
        >>> from bijectory import BoxUniform
        >>> fair = Dequantized(BoxUniform((1, 2, 2), 0.0, 8.0), levels=8)
        >>> log_prob = fair.log_prob(torch.full((1, 2, 2), 5.0))
        >>> round(bits_per_dim(log_prob, fair.event_shape).item(), 4)
        3.0
    """

    exact = False

    def __init__(
        self, flow: Density, levels: int = 256, noise: Flow | None = None, samples: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        check_type(flow, Density, "flow")
        check(levels >= 2, ConfigError, f"levels must be at least 2, got {levels}.")
        check(samples >= 1, ConfigError, f"samples must be at least 1, got {samples}.")
        if noise is not None:
            check_type(noise, Flow, "noise")
            d = flow.event_shape.numel()
            fits = noise.event_shape == flow.event_shape and (noise.embed is not None or noise.context == d)
            check(
                fits and isinstance(noise.base, StandardNormal),
                ConfigError,
                f"the noise must be a flow on events {tuple(flow.event_shape)} with context={d} and a StandardNormal base, "
                f"got events {tuple(noise.event_shape)}, context={noise.context} and a {type(noise.base).__name__}.",
            )
        self.flow, self.levels, self.noise, self.samples, self.seed = flow, levels, noise, samples, seed
        self.event_shape, self.context = flow.event_shape, flow.context

    def log_prob(self, x: Tensor, c: Tensor | None = None, *, samples: int | None = None) -> Tensor:
        """Lower bound on the log-probability in nats: ``(*batch, *event) -> (*batch,)``, always the same for the same image.

        Args:
            x: Levels ``0 ... levels - 1``, in the dtype of the flow.
            c: Context ``(*batch, context)``.
            samples: Noise samples; None takes those of the density.
        """
        x, n = self._enter(x, c), len(self.event_shape)
        u = hashed_uniform(x.detach().flatten(x.dim() - n).round().long(), samples or self.samples, self.seed)
        if self.noise is not None:  # quantiles of the base of the noise
            base = self.noise.base.event_shape
            return self._bound(x, c, torch.special.ndtri(u).to(x.dtype).unflatten(-1, base))
        return self._bound(x, c, u.to(x.dtype).unflatten(-1, self.event_shape))

    def bound(
        self, x: Tensor, c: Tensor | None = None, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Lower bound with fresh noise, ``(*batch,)``; its gradients reach the flow and the noise.

        Args:
            x: Levels ``0 ... levels - 1``, in the dtype of the flow.
            c: Context ``(*batch, context)``.
            samples: Noise samples of each image.
            generator: Source of randomness; the global one if None.
        """
        x = self._enter(x, c)
        size = (samples, *x.shape[: x.dim() - len(self.event_shape)])
        if self.noise is not None:
            return self._bound(x, c, self.noise.base.rsample(size, generator=generator))
        u = torch.rand((*size, *self.event_shape), generator=generator, dtype=x.dtype, device=x.device)
        return self._bound(x, c, u)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws; levels are whole numbers, so there is no gradient."""
        return self.quantize(self.flow.sample(shape, c, generator=generator))

    def quantize(self, v: Tensor) -> Tensor:
        """The level whose cell holds a continuous pixel; NaN stays NaN."""
        return v.detach().floor().clamp(0, self.levels - 1)

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        """Data-dependent initialisation of the flow, and of the noise, from levels ``x`` (global random generator)."""
        u = torch.rand_like(x).clamp(self._edge(x), 1 - self._edge(x))
        for part, value, context in ((self.flow, x + u, c), (self.noise, u, self._pixels(x))):
            if isinstance(part, Flow):
                part.initialize(value, context)

    def _enter(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Checked levels in the batch that they have together with the context: the samples come before it."""
        check_events(self, x, self.event_shape, "x")
        embedded = (
            isinstance(self.flow, Flow) and self.flow.embed is not None
        )  # then only the flow knows the batch of c
        if embedded or not self.context:
            return x
        check_batches(x, c, len(self.event_shape))
        return expand_to_context(x, c, len(self.event_shape))

    def _bound(self, x: Tensor, c: Tensor | None, e: Tensor) -> Tensor:
        """The bound from ``(samples, *batch, *event)`` uniform noise, or latents of the learned noise."""
        n = len(self.event_shape)
        level = x.detach().round()
        whole = ((level >= 0) & (level <= self.levels - 1) & ((x - level).abs() <= WHOLE)) | x.isnan()
        x = torch.where(whole, x, 0.0)
        log_q: Tensor | float = 0.0
        if self.noise is not None:
            u, ladj = self.noise.to_data(e, self._pixels(x))
            log_q = self.noise.base.log_prob(e) - ladj
        else:
            u = e
        # In the precision of x the sum must stay inside the cell: rounding up would leave it, and the domain of the flow.
        v = x + u.clamp(self._edge(x), 1 - self._edge(x))
        terms = self.flow.log_prob(v, c) - log_q
        value = terms[0] if len(terms) == 1 else terms.logsumexp(0) - math.log(len(terms))
        return torch.where(whole.flatten(x.dim() - n).all(-1), value, -math.inf)

    def _pixels(self, x: Tensor) -> Tensor:
        """Pixels as the context of the noise."""
        return (2 * x / (self.levels - 1) - 1).flatten(x.dim() - len(self.event_shape))

    def _edge(self, x: Tensor) -> float:
        return self.levels * torch.finfo(x.dtype).eps


def bits_per_dim(log_prob: Number, shape: int | Sequence[int], *, cell: float = 1.0) -> Number:
    r"""Bits per dimension, :math:`-\log_2 P / d` with :math:`P = p\,h^d` the probability of a cell of width ``h``.

    Densities of Bijectory are in data units, where a level is a cell of width 1: nothing is added. A model of pixels
    rescaled to [0, 1] has cells of width ``1 / levels``: the constant is then :math:`\log_2 L`, 8 bits for 256 levels.

    Args:
        log_prob: Log-densities in nats.
        shape: Event shape, or number ``d`` of dimensions.
        cell: Width ``h`` of one level in the units of the density.

    Example:
        >>> bits_per_dim(0.0, (1, 28, 28), cell=1 / 256)  # uniform on the unit cube
        8.0
    """
    d = as_event_shape(shape).numel()
    return -log_prob / (d * math.log(2)) - math.log2(cell)
