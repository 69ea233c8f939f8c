r"""What TarFlow adds to sampling: guidance by a condition, and a denoising step.

A model of noisy data, trained on :math:`\tilde x = x + \sigma \varepsilon`, is an easier one to fit and to sample; its
draws are noisy, and the model's own score takes the noise off.
"""

import torch
from torch import Tensor

from bijectory.densities.flow import Flow
from bijectory.densities.validate import check_shape
from bijectory.errors import ConfigError, check
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform
from bijectory.transforms.causal import Causal
from bijectory.transforms.chain import Chain


def guided_sample(
    flow: Flow,
    c: Tensor,
    shape: int | tuple[int, ...] = (),
    *,
    guidance: float = 1.0,
    null: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws pushed towards their context, away from what the flow would draw without one.

    In every causal layer, token by token,

    .. math:: \tilde\mu_t = \mu_t(x_{<t}, c) + w \left(\mu_t(x_{<t}, c) - \mu_t(x_{<t}, \varnothing)\right), \qquad
              \tilde\alpha_t = \alpha_t(x_{<t}, c) + w \left(\alpha_t(x_{<t}, c) - \alpha_t(x_{<t}, \varnothing)\right),

    and :math:`x_t = \tilde\mu_t + e^{\tilde\alpha_t} z_t`. Here the raw parameters are extrapolated, so that log-scales stay
    within their bound. The flow must know the empty context :math:`\varnothing`: train it with ``ContextDropout``. Draws are
    sharper than those of the density, which they no longer follow.

    Args:
        flow: A flow with causal layers that read a context, such as ``tarflow_image(shape, classes)``.
        c: Context ``(*batch, context)``, as the flow takes it.
        shape: Number of draws for each context.
        guidance: The weight ``w``; 0 gives plain draws.
        null: The empty context, as the flow takes it; None: zeros.
        generator: Source of randomness; the global one if None.

    Returns:
        ``(*shape, *batch of c, *event)``, without gradients.

    Raises:
        ContextError: If the context does not fit the flow.
        ConfigError: If the flow has no causal layer that reads a context.

    References:
        Normalizing Flows are Capable Generative Models (TarFlow), Zhai+ 2024, arXiv:2412.06329, sec. on guidance;
        Classifier-Free Diffusion Guidance, Ho, Salimans 2022, arXiv:2207.12598.

    Example:
        >>> from bijectory import tarflow
        >>> flow = tarflow(4, context=3, layers=2, width=8)
        >>> guided_sample(flow, torch.eye(3), 5, guidance=2.0).shape
        torch.Size([5, 3, 4])
    """
    guided = any(isinstance(t, Causal) and t.context for t in flow.transform.modules())
    check(
        guided, ConfigError, "the flow has no causal layer that reads a context; build it with tarflow(…, context=…)."
    )
    lead = check_shape(shape)
    with torch.no_grad():
        contexts = flow._embed(c), flow._embed(torch.zeros_like(c) if null is None else null)
        z = flow.base.sample(lead, contexts[0], generator=generator)
        return _to_data(flow.transform, z, *contexts, guidance)


def _to_data(t: Transform, z: Tensor, c: Tensor | None, null: Tensor | None, guidance: float) -> Tensor:
    if isinstance(t, Chain):
        for layer in reversed(list(t)):
            z = _to_data(layer, z, c, null, guidance)
        return z
    if isinstance(t, Causal) and t.context and c is not None and null is not None:
        return t.guided_inverse(z, c, null, guidance)[0]
    return t.inverse(z, c)[0]


def denoise(flow: Flow, x: Tensor, sigma: float, c: Tensor | None = None) -> Tensor:
    r"""Take Gaussian noise off by the score of a flow of noisy data (Tweedie's formula).

    .. math:: \hat x = \tilde x + \sigma^2\, \nabla_{\tilde x} \log p(\tilde x \mid c) = \mathrm{E}[x \mid \tilde x, c],

    where ``p`` is the density of :math:`\tilde x = x + \sigma \varepsilon`: train it with ``NoisyData(sigma)``.

    Args:
        flow: Flow of noisy data.
        x: Noisy data, draws of the flow for instance, ``(*batch, *event)``.
        sigma: Standard deviation of the noise, in the units of ``x``.
        c: Context.

    Returns:
        ``(*batch, *event)``, without gradients.

    Raises:
        ConfigError: If ``sigma`` is negative.

    References:
        Normalizing Flows are Capable Generative Models (TarFlow), Zhai+ 2024, arXiv:2412.06329, sec. on denoising;
        Tweedie's Formula and Selection Bias, Efron 2011, doi:10.1198/jasa.2011.tm11181.

    Example:
        >>> from bijectory import Standardize, StandardNormal
        >>> flow = Flow(Standardize(1, [0.0], [2.0]), StandardNormal(1))  # noisy data of variance 4, of which noise: 1
        >>> denoise(flow, torch.tensor([8.0]), 1.0)
        tensor([6.])
    """
    check(sigma >= 0, ConfigError, f"sigma must not be negative, got {sigma}.")
    with torch.enable_grad():
        x = expand_to_context(x, flow._embed(c), len(flow.event_shape)).detach().requires_grad_()
        (score,) = torch.autograd.grad(flow.log_prob(x, c).sum(), x)
    return (x + sigma**2 * score).detach()
