"""Mixture of normals."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, as_event_shape
from bijectory.errors import ConfigError, check
from bijectory.ops.shape import draw_shape


class GaussianMixture(Density):
    r"""Mixture :math:`\sum_k \pi_k N(\mu_k, \operatorname{diag}(e^{2 s_k}))` with learned weights, means and log-scales.

    The draw of a component cannot be differentiated, a draw of the mixture can: ``rsample`` draws by components and
    attaches the *implicit* gradient. With the conditional distribution functions
    :math:`u_i = F(x_i \mid x_{<i}; \theta)` held fixed, feature by feature,

    .. math:: \frac{dx_i}{d\theta} = -\frac{1}{p(x_i \mid x_{<i})}\, \frac{dF(x_i \mid x_{<i}(\theta); \theta)}{d\theta}.

    So expectations have unbiased first derivatives with respect to weights, means and scales. Second derivatives through
    ``rsample`` are not provided by this estimator. Its cost is one pass over the features; ``sample`` has none of it.

    Args:
        event_shape: An int (number of features) or a shape.
        components: Number of components.
        spread: Standard deviation of the initial means around zero (they must differ for the components to part).

    Raises:
        ConfigError: If ``components < 1`` or ``spread`` is negative.

    References:
        Stochastic Backpropagation through Mixture Density Distributions, Graves 2016, arXiv:1607.05690.
        Implicit Reparameterization Gradients, Figurnov, Mohamed, Mnih 2018, arXiv:1805.08498, sec. 3.

    Example:
        >>> mixture = GaussianMixture(2, components=3)
        >>> mixture.log_prob(torch.zeros(5, 2)).shape, mixture.sample(4).shape
        (torch.Size([5]), torch.Size([4, 2]))
    """

    def __init__(self, event_shape: int | Sequence[int], components: int = 8, spread: float = 1.0) -> None:
        super().__init__()
        check(components >= 1, ConfigError, f"components must be at least 1, got {components}.")
        check(spread >= 0, ConfigError, f"spread must not be negative, got {spread!r}.")
        self.event_shape = as_event_shape(event_shape)
        self.components, self.spread = components, spread
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * torch.randn(components, *self.event_shape))
        self.log_scales = nn.Parameter(torch.zeros(components, *self.event_shape))

    def _terms(self, x: Tensor) -> Tensor:
        """Log-density of each feature under each component: ``(*batch, d) -> (*batch, K, d)``."""
        means, log_scales = self.means.flatten(1), self.log_scales.flatten(1)
        noise = (x.unsqueeze(-2) - means) * (-log_scales).exp()
        return -0.5 * noise.square() - log_scales - 0.5 * math.log(2 * math.pi)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.dim() - len(self.event_shape)], self.event_shape.numel())

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return torch.logsumexp(self.logits.log_softmax(0) + self._terms(self._flat(x)).sum(-1), -1)

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = draw_shape(shape, c, self.event_shape)
        batch = size[: len(size) - len(self.event_shape)]
        with torch.no_grad():
            dtype, device = self.means.dtype, self.means.device
            u = torch.rand(batch, generator=generator, dtype=dtype, device=device)
            edges = self.logits.softmax(0).cumsum(0)[:-1].contiguous()  # K - 1 edges: rounding cannot leave the range
            k = torch.searchsorted(edges, u, right=True)
            noise = torch.randn(size, generator=generator, dtype=dtype, device=device)
            return self.means[k] + noise * self.log_scales.exp()[k]

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        x = self.sample(shape, c, generator=generator)
        return self._attach(self._flat(x)).reshape(x.shape)

    def _attach(self, x: Tensor) -> Tensor:
        """Give draws ``(*batch, d)`` their implicit gradient; the values stay, bit for bit."""
        means, log_scales = self.means.flatten(1), self.log_scales.flatten(1)
        inverse = (-log_scales).exp()
        log_weights = self.logits.log_softmax(0)  # of the components, given the features so far
        columns = []
        for i, column in enumerate(x.unbind(-1)):
            noise = (column.unsqueeze(-1) - means[:, i]) * inverse[:, i]
            weights = log_weights.softmax(-1)
            cdf = (weights * torch.special.ndtr(noise)).sum(-1)
            pdf = (weights * (-0.5 * noise.square()).exp() * inverse[:, i]).sum(-1) / math.sqrt(2 * math.pi)
            step = (cdf - cdf.detach()) / pdf.detach()  # zero, with the gradient of F
            columns.append(column - step)
            noise = (columns[-1].unsqueeze(-1) - means[:, i]) * inverse[:, i]
            log_weights = log_weights - 0.5 * noise.square() - log_scales[:, i]
        return torch.stack(columns, -1)
