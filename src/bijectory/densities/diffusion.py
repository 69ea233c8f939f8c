r"""Draws by the stochastic equation of a score model; the flow's own ``sample`` solves the ordinary one.

Run backwards, from noise to data, all equations of the family

.. math:: dz = \left[f z - \tfrac{1 + \lambda^2}{2}\, g^2\, \nabla \log p_t(z)\right] dt + \lambda\, g\, d\bar w

have the marginals :math:`p_t`: :math:`\lambda = 0` is the probability flow, :math:`\lambda = 1` the reverse of the forward
equation. They agree where the score is exact. Noise along the way corrects errors of a learned score, and costs steps.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations, Song+ 2020, arXiv:2011.13456, eq. 6 and 13,
    algorithms 2-5.
    Denoising Diffusion Implicit Models, Song, Meng, Ermon 2020, arXiv:2010.02502, eq. 12 and 16.
    Elucidating the Design Space of Diffusion-Based Generative Models, Karras+ 2022, arXiv:2206.00364, eq. 6.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bijectory.densities.flow import Flow
from bijectory.densities.validate import check_shape
from bijectory.errors import ConfigError, check
from bijectory.nets import ProbabilityFlow
from bijectory.transforms.base import Transform
from bijectory.transforms.chain import Chain
from bijectory.transforms.continuous import Continuous

_METHODS = ("euler", "ancestral")


class Diffusion(NamedTuple):
    """Where the score model of a flow is.

    Attributes:
        before: Layers between the data and the model.
        field: The model.
        after: Layers between its end and the base.
    """

    before: Chain
    field: ProbabilityFlow
    after: Chain


def find_diffusion(flow: Flow) -> Diffusion:
    """The one ``Continuous`` layer of a flow whose field is a ``ProbabilityFlow``, and what is around it.

    Raises:
        ConfigError: If there is none, or more than one.

    Example:
        >>> from bijectory import score_sde
        >>> find_diffusion(score_sde(2)).field.predicts
        'v'
    """
    layers = list(_layers(flow.transform))
    found = [k for k, t in enumerate(layers) if isinstance(t, Continuous) and isinstance(t.field, ProbabilityFlow)]
    message = (
        f"needs one Continuous layer with a ProbabilityFlow in the flow's Chain, found {len(found)}: see score_sde."
    )
    check(len(found) == 1, ConfigError, message)
    k = found[0]
    return Diffusion(Chain(*layers[:k]), layers[k].field, Chain(*layers[k + 1 :]))  # type: ignore[arg-type]


def _layers(t: Transform) -> Iterator[Transform]:
    if isinstance(t, Chain):
        for layer in t:
            yield from _layers(layer)
    else:
        yield t


def sde_sample(
    flow: Flow,
    shape: int | tuple[int, ...] = (),
    c: Tensor | None = None,
    *,
    steps: int = 256,
    method: Literal["euler", "ancestral"] = "ancestral",
    stochasticity: float = 1.0,
    corrections: int = 0,
    snr: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws of a score model by its reverse stochastic equation, in equal steps of the layer's time.

    "euler" takes Euler-Maruyama steps. "ancestral" asks the network for the data and draws the point of the next time given
    this data and the point of now,

    .. math::
        z_r = \alpha_r \hat x + \sqrt{\sigma_r^2 - \lambda^2 \nu^2}\; \hat\varepsilon + \lambda \nu\, n, \qquad
        \nu^2 = \frac{\sigma_r^2}{\sigma_t^2}\left(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_r^2} \sigma_r^2\right), \quad r < t,

    which is exact where the data are known; :math:`\lambda = 0` is DDIM. Each ``correction`` is a Langevin step at the new
    time, :math:`z + \eta\, \nabla \log p_r(z) + \sqrt{2\eta}\, n` with :math:`\eta = 2 (\rho\, \sigma_r)^2`: the step of the
    paper's correctors with the ratio of norms of noise and score, which they measure on a batch, at its value for noise.

    The draws follow the stochastic model, not the density of ``flow.log_prob``; the two are equal where the score is exact.
    They are draws at the time ``schedule.start``, and carry its noise.

    Args:
        flow: A flow with one ``Continuous`` layer of a ``ProbabilityFlow``, such as ``score_sde(2)``.
        shape: Number of draws for each context.
        c: Context ``(*batch, context)``, as the flow takes it.
        steps: Number of steps; as many evaluations of the network, and those of the corrections.
        method: The predictor.
        stochasticity: :math:`\lambda`; "ancestral" takes at most 1.
        corrections: Langevin steps after each step.
        snr: The :math:`\rho` of the Langevin steps, their ratio of signal to noise.
        generator: Source of randomness; the global one if None.

    Returns:
        ``(*shape, *batch of c, *event)``, without gradients.

    Raises:
        ConfigError: If the flow is not a score model, or an argument is out of range.
        ContextError: If the context does not fit the flow.

    Example:
        >>> from bijectory import score_sde
        >>> sde_sample(score_sde(2), 5, steps=10).shape
        torch.Size([5, 2])
    """
    check(method in _METHODS, ConfigError, f"method must be one of {_METHODS}, got {method!r}.")
    check(steps >= 1, ConfigError, f"steps must be at least 1, got {steps}.")
    check(corrections >= 0, ConfigError, f"corrections must not be negative, got {corrections}.")
    check(snr > 0, ConfigError, f"snr must be positive, got {snr}.")
    most = 1.0 if method == "ancestral" else float("inf")
    check(0 <= stochasticity <= most, ConfigError, f"stochasticity must lie in [0, {most:g}], got {stochasticity}.")
    before, field, after = find_diffusion(flow)
    with torch.no_grad():
        c = flow._embed(c)
        z = after.inverse(flow.base.sample(check_shape(shape), c, generator=generator), c)[0]
        noise = functools.partial(_noise, generator)
        grid = field.time(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).to(z)
        step = _euler if method == "euler" else _ancestral
        for t, r in itertools.pairwise(grid):
            z = step(field, z, c, t, r, stochasticity, noise(z))
            for _ in range(corrections):
                eta = 2 * (snr * field.schedule.sigma(r)).square()
                z = z + eta * field.score(r, z, c) + (2 * eta).sqrt() * noise(z)
        return before.inverse(z, c)[0]


def _noise(generator: torch.Generator | None, z: Tensor) -> Tensor:
    return torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)


def _euler(
    field: ProbabilityFlow, z: Tensor, c: Tensor | None, t: Tensor, r: Tensor, stochasticity: float, n: Tensor
) -> Tensor:
    """Slope of the probability flow, and a Langevin part of strength ``stochasticity``."""
    v, g2 = field.velocity(t, z, c), field.schedule.diffusion(t)
    slope = v - stochasticity**2 / 2 * g2 * field.schedule.score_from_velocity(t, z, v)
    return z + (r - t) * slope + stochasticity * (g2 * (t - r)).sqrt() * n


def _ancestral(
    field: ProbabilityFlow, z: Tensor, c: Tensor | None, t: Tensor, r: Tensor, stochasticity: float, n: Tensor
) -> Tensor:
    path, v = field.schedule, field.velocity(t, z, c)
    x, e = path.data_from_velocity(t, z, v), path.noise_from_velocity(t, z, v)
    ratio = path.alpha(t) * path.sigma(r) / (path.alpha(r) * path.sigma(t))
    fresh = stochasticity * path.sigma(r) * (1 - ratio.square()).clamp_min(0).sqrt()
    kept = (path.sigma(r).square() - fresh.square()).clamp_min(0).sqrt()
    return path.alpha(r) * x + kept * e + fresh * n
