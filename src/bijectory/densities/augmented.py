r"""Augmented flows: a flow over the data and extra noise dimensions, which the data do not show.

.. math:: \log p(x) \ge E_{e_1 \dots e_K \sim q(e|x)} \log \frac1K \sum_k \frac{p(x, e_k)}{q(e_k|x)}

In the terms of SurVAE flows this is the slicing surjection in the generative direction: the extra dimensions of a draw are
cut off, and inference has to guess them.
"""

import math

import torch
from torch import Tensor

from bijectory.densities.base import Density
from bijectory.densities.flow import Flow
from bijectory.densities.normal import StandardNormal
from bijectory.errors import ConfigError, check, check_type
from bijectory.ops.shape import draw_shape, expand_to_context


class Augmented(Density):
    r"""Density of the first features of a flow, the others marginalised: the bound of the module, ``exact = False``.

    Draws are exact: those of the flow, cut. ``log_prob`` averages over ``samples`` draws of noise that are fixed by ``seed``
    and the same for every row, so it is a deterministic, differentiable function of ``x``; over seeds, its mean is a lower
    bound that tends to :math:`\log p(x)` as ``samples`` grows. Never train on it: the flow would learn those few draws by
    heart. Train on ``bound``, which draws afresh.

    Args:
        flow: Density on vectors of ``features + extra`` numbers.
        features: Number of data features.
        noise: Density :math:`q(e|x)` of the extra numbers: a flow with a ``StandardNormal`` base and, to depend on the data,
            ``context=features``; None for the standard normal law.
        samples: Number ``K`` of draws of noise in ``log_prob``.
        seed: Of those draws.

    Raises:
        ConfigError: If the sizes do not fit, or the noise is of another kind.

    References:
        Augmented Normalizing Flows, Huang, Dinh, Courville 2020, arXiv:2002.07101, eq. 5.
        SurVAE Flows, Nielsen, Jaini, Hoogeboom, Winther, Welling 2020, arXiv:2007.02731, sec. 3.
        Importance Weighted Autoencoders, Burda, Grosse, Salakhutdinov 2016, arXiv:1509.00519, eq. 8.

    Example:
        >>> from bijectory import real_nvp
        >>> p = Augmented(real_nvp(3, layers=2), features=1)
        >>> p.log_prob(torch.zeros(5, 1)).shape, p.sample(4).shape, p.exact
        (torch.Size([5]), torch.Size([4, 1]), False)
    """

    exact = False
    _noise: Tensor

    def __init__(
        self, flow: Density, features: int, noise: Flow | None = None, samples: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        check_type(flow, Density, "flow")
        extra = flow.event_shape[-1] - features
        check(
            len(flow.event_shape) == 1 and features >= 1 and extra >= 1,
            ConfigError,
            f"features must leave some of the {tuple(flow.event_shape)} numbers of the flow for noise, got {features}.",
        )
        check(samples >= 1, ConfigError, f"samples must be at least 1, got {samples}.")
        if noise is not None:
            check_type(noise, Flow, "noise")
            fits = noise.event_shape == (extra,) and noise.context in (0, features)
            check(
                fits and isinstance(noise.base, StandardNormal),
                ConfigError,
                f"the noise must be a flow on {extra} features with context 0 or {features} and a StandardNormal base, got "
                f"events {tuple(noise.event_shape)}, context={noise.context} and a {type(noise.base).__name__}.",
            )
        self.flow, self.features, self.noise, self.samples, self.seed = flow, features, noise, samples, seed
        self.event_shape, self.context = torch.Size((features,)), flow.context
        self._base = StandardNormal(extra)
        draws = torch.randn(samples, extra, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("_noise", draws.to(torch.get_default_dtype()), persistent=False)  # follows from the seed

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        batch = expand_to_context(x, c if self.context else None, 1).shape[:-1]
        return self._bound(x, c, self._noise.unflatten(0, (-1, *(1,) * len(batch))))

    def bound(
        self, x: Tensor, c: Tensor | None = None, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """The bound with fresh noise for every row, ``(*batch,)``, an unbiased estimate of its mean; what to train on.

        Args:
            x: ``(*batch, features)``.
            c: Context ``(*batch, context)``.
            samples: Number of draws of noise.
            generator: Source of randomness; the global one if None.
        """
        batch = expand_to_context(x, c if self.context else None, 1).shape[:-1]
        return self._bound(x, c, self._base.rsample((samples, *batch), generator=generator).to(x.dtype))

    def _bound(self, x: Tensor, c: Tensor | None, e: Tensor) -> Tensor:
        """From standard normal numbers ``(samples, *batch, extra)``."""
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        log_q = self._base.log_prob(e)
        if self.noise is not None:
            e, ladj = self.noise.to_data(e, x if self.noise.context else None)
            log_q = log_q - ladj
        lead = torch.broadcast_shapes(e.shape[:-1], (1, *x.shape[:-1]))
        joint = torch.cat((x.expand(*lead, x.shape[-1]), e.expand(*lead, e.shape[-1])), -1)
        return torch.logsumexp(self.flow.log_prob(joint, c) - log_q, 0) - math.log(e.shape[0])

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.flow.rsample(*_shape(self.flow, shape, c), generator=generator)[..., : self.features]


def _shape(p: Density, shape: int | tuple[int, ...], c: Tensor | None) -> tuple[tuple[int, ...], Tensor | None]:
    """Arguments for a draw of a part that may not read the context: its batch is then part of the shape."""
    if p.context:
        return draw_shape(shape, None, torch.Size()), c
    return draw_shape(shape, c, torch.Size()), None
