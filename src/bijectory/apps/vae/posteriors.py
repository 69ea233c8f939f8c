r"""Approximate posteriors :math:`q(z|x)`: a diagonal normal whose moments come from the encoder, and a flow behind it.

.. math:: z_0 \sim N(\mu(h), \sigma^2(h)), \qquad z = f^{-1}(z_0; h), \qquad h = \mathrm{encoder}(x)

The flow reads the code ``h`` as well: planar and Sylvester maps have all their parameters from it, the networks of the
others take it as an input. Each is turned so that a draw with its density is one pass.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bijectory.bijections import RationalQuadratic
from bijectory.densities import Density, DiagonalNormal, Flow
from bijectory.errors import ConfigError, check
from bijectory.nets import MLP, MaskedMLP, TimeMLP
from bijectory.recipes.autoregressive import alternating_layers
from bijectory.recipes.coupling import bounded_affine, coupling_stack, linear_mixing
from bijectory.transforms import Autoregressive, Chain, Continuous, Inverse, Planar, Sylvester, Transform

Steps = list[Transform]


def _planar(latent: int, context: int, *, layers: int = 16) -> Steps:
    return [Inverse(Planar(latent, context, (), layers=layers))]


def _sylvester(
    latent: int,
    context: int,
    *,
    layers: int = 4,
    kind: Literal["householder", "orthogonal", "triangular"] = "orthogonal",
    rank: int = 16,
) -> Steps:
    return [Inverse(Sylvester(latent, context, kind, min(rank, latent), hidden=(), layers=layers))]


def _iaf(latent: int, context: int, *, layers: int = 4, hidden: Sequence[int] = (100,)) -> Steps:
    if latent == 1:
        return [Inverse(step) for step in alternating_layers(bounded_affine(layers), 1, context, layers, hidden)]
    family = bounded_affine(layers)
    steps: Steps = []
    for k in range(layers):
        order = tuple(range(latent))[:: -1 if k % 2 else 1]
        net = MaskedMLP(
            latent, family.n_params, hidden, context, order, head_scale=1.0
        )  # as for the moments, see below
        steps.append(Inverse(Autoregressive(family, latent, context, hidden, net=net)))
    return steps[::-1]


def _real_nvp(latent: int, context: int, *, layers: int = 6, hidden: Sequence[int] = (100,)) -> Steps:
    return [Inverse(step) for step in reversed(coupling_stack(bounded_affine(layers), latent, context, layers, hidden))]


def _nsf(
    latent: int,
    context: int,
    *,
    layers: int = 4,
    hidden: Sequence[int] = (100,),
    bins: int = 8,
    bound: float = 5.0,
) -> Steps:
    couplings = coupling_stack(RationalQuadratic(bins, bound), latent, context, layers, hidden)
    mixed = [step for k, coupling in enumerate(couplings) for step in (*linear_mixing(latent, k, layers), coupling)]
    return [Inverse(step) for step in reversed(mixed)]


def _cnf(latent: int, context: int, *, hidden: Sequence[int] = (64,), method: str = "rk4", steps: int = 4) -> Steps:
    return [Continuous(TimeMLP(latent, context, hidden), method, steps)]


POSTERIORS: dict[str, Callable[..., Steps]] = {
    "diagonal": lambda latent, context: [],
    "planar": _planar,
    "sylvester": _sylvester,
    "iaf": _iaf,
    "real_nvp": _real_nvp,
    "nsf": _nsf,
    "cnf": _cnf,
}
"""Flows behind the diagonal normal, in data -> latent order, by name."""


def amortized_posterior(name: str, latent: int, context: int, **args: Any) -> Density:
    """Approximate posterior of a name, its parameters read from a code of width ``context``.

    Args:
        name: "diagonal", "planar", "sylvester", "iaf", "real_nvp", "nsf" or "cnf".
        latent: Width of the latent.
        context: Width of the code.
        **args: Of the flow: ``layers``; for Sylvester ``kind`` and ``rank``; for IAF, RealNVP and NSF ``hidden``; for NSF
            ``bins`` and ``bound``; for the continuous flow ``hidden``, ``method`` and ``steps``.

    Raises:
        ConfigError: On an unknown name or argument.

    References:
        Rezende, Mohamed 2015, arXiv:1505.05770 (planar); van den Berg+ 2018, arXiv:1803.05649 (Sylvester); Kingma+ 2016,
        arXiv:1606.04934 (IAF).

    Example:
        >>> import torch
        >>> q = amortized_posterior("sylvester", 4, context=8, layers=2, rank=2)
        >>> z, log_q = q.rsample_and_log_prob(3, torch.zeros(5, 8))
        >>> z.shape, log_q.shape
        (torch.Size([3, 5, 4]), torch.Size([3, 5]))
    """
    known = ", ".join(POSTERIORS)
    check(name in POSTERIORS, ConfigError, f"there is no posterior {name!r}; known posteriors: {known}.")
    build = POSTERIORS[name]
    names = list(inspect.signature(build).parameters)[2:]
    strange = ", ".join(sorted(set(args) - set(names)))
    check(
        not strange,
        ConfigError,
        f"posterior {name!r} has no argument {strange}; it takes {', '.join(names) or 'none'}.",
    )
    # Moments that read the code in full from the first step: with weights near zero training is slow to use the latent.
    base = DiagonalNormal(latent, context, (), MLP(0, 2 * latent, (), context, head_scale=1.0))
    try:
        steps = build(latent, context, **args)
    except TypeError as error:
        raise ConfigError(f"posterior {name!r}: {error}.") from None
    return Flow(Chain(*steps), base) if steps else base
