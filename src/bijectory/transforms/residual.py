"""Residual layers: the identity plus a contraction."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ConvergenceError, check, check_type
from bijectory.nets import Contraction
from bijectory.ops import series
from bijectory.ops.contraction import Map, attach, contraction_inverse, linear_solve
from bijectory.ops.estimates import mean_and_error
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.stochastic import Stochastic

EXACT_UP_TO = 32  # dimensions for which a whole Jacobian is worth it
LADJ = ("auto", "exact", "series", "roulette")

_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # new in torch 2.7


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A network as a function of ``x`` alone, its weights bounded once for many calls."""

    net: Contraction
    c: Tensor | None
    weights: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        value: Tensor = self.net(x, self.c, self.weights)
        return value

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.jacobian(x, self.c, self.weights)

    def pullback(self, x: Tensor) -> tuple[Tensor, Map]:
        return self.net.pullback(x, self.c, self.weights)


class Residual(Stochastic):
    r"""Residual layer :math:`z = x + g(x; c)` with :math:`\|g(x) - g(y)\| \le \kappa \|x - y\|`, :math:`\kappa < 1`.

    The log-determinant :math:`\log\det(I + J_g)` is one of

    * ``"exact"``: from the whole Jacobian, ``d`` tangents pushed through the network, and a determinant;
    * ``"series"``: a power series cut off after ``terms``, with traces estimated by probes: biased, the bias falls as
      :math:`\kappa^{\text{terms}}`;
    * ``"roulette"``: ``exact_terms`` and a random number of further ones, reweighted: unbiased;
    * ``"auto"``: exact up to 32 dimensions, roulette above.

    The stochastic modes draw probes and numbers of terms anew from the global generator *in training mode only*, as dropout
    does, and take gradients by the Neumann series (first derivatives, memory of one product). In evaluation mode both are
    the series of ``terms`` terms on ``eval_probes`` probes that are part of the layer (a buffer, drawn from ``seed``): the
    same input gives the same number, and every derivative is that of the number. All rows share these probes, so their error
    does not average out over a data set: for a figure to report take fresh draws, ``log_det`` or
    ``Flow.log_prob_and_error``, which come with a standard error.

    The inverse is Banach's fixed-point iteration, whose gradients are implicit, of first and second order.

    Args:
        net: The contraction :math:`g`, with its shape, context and constant.
        ladj: ``"auto"``, ``"exact"``, ``"series"`` or ``"roulette"``.
        terms: Terms of the series; of the roulette in evaluation mode only.
        exact_terms: Terms that the roulette always has.
        survival: Probability that the roulette goes on after each further term.
        probes: Probes in training mode.
        eval_probes: Probes in evaluation mode.
        seed: Of the probes in evaluation mode.

    Raises:
        ConfigError: If an argument is out of range.

    References:
        Invertible Residual Networks, Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen 2019, arXiv:1811.00995;
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen 2019, arXiv:1906.02735.

    Example:
        >>> from bijectory.nets import LipschitzNet
        >>> layer = Residual(LipschitzNet((2,), hidden=(16,)))
        >>> z, ladj = layer(torch.ones(5, 2))
        >>> z.shape, ladj.shape, bool(torch.allclose(layer.inverse(z)[0], torch.ones(5, 2), atol=1e-5))
        (torch.Size([5, 2]), torch.Size([5]), True)
    """

    solver = "fixed point"
    ladj_cost = "O(d³)"
    signs: Tensor | None

    def __init__(
        self,
        net: Contraction,
        ladj: Literal["auto", "exact", "series", "roulette"] = "auto",
        terms: int = 20,
        exact_terms: int = 2,
        survival: float = 0.5,
        probes: int = 1,
        eval_probes: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_type(net, Contraction, "net")
        check(ladj in LADJ, ConfigError, f"ladj={ladj!r} is unknown; use one of {list(LADJ)}.")
        check(0 < net.lipschitz < 1, ConfigError, f"net.lipschitz must lie between 0 and 1, got {net.lipschitz!r}.")
        check(0 < survival < 1, ConfigError, f"survival must lie between 0 and 1, got {survival!r}.")
        for name, n in {
            "terms": terms,
            "exact_terms": exact_terms,
            "probes": probes,
            "eval_probes": eval_probes,
        }.items():
            check(n >= 1, ConfigError, f"{name} must be at least 1, got {n}.")
        self.net, self.ladj, self.terms, self.exact_terms, self.survival = net, ladj, terms, exact_terms, survival
        self.probes, self.eval_probes, self.seed = probes, eval_probes, seed
        self.context = net.context
        self.event_dim = self.latent_event_dim = len(net.shape)
        size = torch.Size(net.shape)
        self.exact = ladj == "exact" or (ladj == "auto" and size.numel() <= EXACT_UP_TO)
        signs = None
        if not self.exact:
            g = torch.Generator().manual_seed(seed)
            signs = series.rademacher(torch.Size((eval_probes, *size)), torch.zeros(()), g)
        self.register_buffer("signs", signs)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, g = self._enter(x, c)
        shift, ladj = self._shift_and_ladj(g, x)
        return x + shift, ladj

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, g = self._enter(z, c)
        x = self._inverted(g, z)
        return x, -self._shift_and_ladj(g, x)[1]

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        x, g = self._enter(x, c)
        return x + g(x)

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        z, g = self._enter(z, c)
        return self._inverted(g, z)

    def solve(self, z: Tensor, c: Tensor | None = None, *, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
        r"""Invert without log-determinant and gradient, and say how well.

        Args:
            z: ``(*batch, *event)``.
            c: Context.
            tolerance: The largest residual that is accepted; None accepts any.

        Returns:
            ``x``, and the residual: the norm of ``x + g(x) - z``, ``(*batch,)``. The error of ``x`` is at most the residual
            over :math:`1 - \kappa`.

        Raises:
            ConvergenceError: If a residual exceeds ``tolerance``: the net does not contract as it claims, or ``z`` is so
                large that the dtype does not resolve it.
        """
        z, g = self._enter(z, c)
        x, residual = self._fixed_point(g, z)
        if tolerance is not None:
            worst = float(residual.nan_to_num(nan=torch.inf).max()) if residual.numel() else 0.0
            check(
                worst <= tolerance,
                ConvergenceError,
                f"the fixed point leaves a residual of {worst:.3g} where {tolerance:.3g} was asked for; "
                "check that the net contracts, or use float64.",
            )
        return x, residual

    def log_det(
        self, x: Tensor, c: Tensor | None = None, *, samples: int = 16, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-determinant of ``forward`` at ``x`` from fresh draws, and its standard error: ``(*batch,)`` each.

        Unbiased with the roulette; the error of ``"series"`` does not count what is cut off. Exact mode has the error 0.

        Args:
            x: ``(*batch, *event)``.
            c: Context.
            samples: Number of independent probes, at least 2.
            generator: Source of randomness, on the device of ``x``; the global one if None.
        """
        check(samples >= 2, ConfigError, f"a standard error needs at least 2 samples, got {samples}.")
        x, g = self._enter(x, c)
        if self.exact:
            ladj = self._shift_and_ladj(g, x)[1]
            return ladj, torch.zeros_like(ladj)
        weights = torch.ones(1, self.terms) if self.ladj == "series" else self._roulette(samples, generator)
        probes = series.rademacher(torch.Size((samples, *x.shape)), x, generator)
        return mean_and_error(series.power_series(g.pullback, x, probes, weights, self.event_dim)[1])

    def _enter(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, _Bound]:
        """``x`` at the joint batch shape, and the network as a function of ``x`` alone."""
        c = c if self.context else None
        return expand_to_context(x, c, self.event_dim), _Bound(self.net, c, self.net.weights())

    def _inverted(self, g: _Bound, z: Tensor) -> Tensor:
        x = self._fixed_point(g, z)[0]
        if torch.is_grad_enabled() and not _is_exporting():
            x = attach(x, z, g, self._newton(g, x))
        return x

    def _fixed_point(self, g: _Bound, z: Tensor) -> tuple[Tensor, Tensor]:
        return contraction_inverse(g, z, self.net.lipschitz, self.event_dim, self.net.order)

    def _shift_and_ladj(self, g: _Bound, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.exact:
            shift, j = g.jacobian(x)
            return shift, series.log_det(j)
        if self.training or self.source is not None:
            probes = series.rademacher(torch.Size((self.probes, *x.shape)), x, self.source)
            weights = torch.ones(1, self.terms) if self.ladj == "series" else self._roulette(1, self.source)
        else:
            signs = self.signs.to(x)  # type: ignore[union-attr]  # there in the stochastic modes
            probes = signs.reshape(len(signs), *(1,) * (x.dim() - self.event_dim), *self.net.shape)
            weights = torch.ones(1, self.terms)
        shift, samples = series.power_series(g.pullback, x, probes, weights, self.event_dim, neumann=self.training)
        return shift, samples.mean(0)

    def _roulette(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        return series.roulette(self.survival, self.exact_terms, samples, generator)

    def _newton(self, g: _Bound, x: Tensor) -> Map:
        """``v -> (I + J)^{-1} v`` at ``x``, a constant matrix or iterations."""
        if not self.exact:
            return lambda v: linear_solve(g, x, v, self.net.lipschitz, self.event_dim, self.net.order)
        with torch.no_grad():
            j = as_precise_as(x, g.jacobian(x)[1])
        a = torch.eye(j.shape[-1], dtype=j.dtype, device=j.device) + j
        return lambda v: torch.linalg.solve(a, v.flatten(v.dim() - self.event_dim)).reshape(v.shape)
