r"""Forward Kullback-Leibler and alpha-divergences to an unnormalised density by adaptive importance sampling.

The proposal is the model itself, which adapts as it learns. With draws :math:`x_s \sim q` (no gradient) and ratios
:math:`r_s = \tilde p(x_s) / q(x_s)`,

.. math::
    \nabla D_\alpha(p \,\|\, q) \propto -\sum_s w_s \nabla\log q(x_s), \qquad w_s = \frac{r_s^\alpha}{\sum_t r_t^\alpha}

is the gradient of :math:`D_\alpha \propto \log E_q[r^\alpha]`: the forward KL at :math:`\alpha = 1`, chi-square at 2. It
covers every mode that the draws reach, where the reverse KL may settle in one, and needs no gradient of the density.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from bijectory.densities import Density
from bijectory.errors import ConfigError, check
from bijectory.objectives.batch import Batch


@dataclasses.dataclass
class AlphaDivergence:
    r"""Cross-entropy of a density under its own draws, weighted towards an unnormalised log-density.

    Pass it to ``fit`` like ``ReverseKL``: rows are counted, not read. The weights are truncated at :math:`\sqrt n` times
    their mean, which bounds the pull of a single draw.

    Args:
        log_density: :math:`\log\tilde p`: ``x -> (*batch,)``; may be ``-inf``.
        alpha: :math:`\alpha > 0`; 1 is the forward KL.
        beta: Weight of :math:`\log\tilde p` while the model is in training mode (annealing); in evaluation mode it counts
            as 1.

    Raises:
        ConfigError: If ``alpha`` is not positive.

    References:
        Adaptive importance sampling: Cornuet, Marin, Mira, Robert 2012, arXiv:0907.1254.
        Truncated importance sampling, Ionides 2008, J. Comput. Graph. Stat. 17(2).
        Rényi Divergence Variational Inference, Li, Turner 2016, arXiv:1602.02311, eq. 2.

    Example:
        >>> from bijectory import StandardNormal
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> target = StandardNormal(1)  # with q = p all weights are equal: the entropy, 1.42
        >>> loss = AlphaDivergence(target.log_prob)(StandardNormal(1), Batch(torch.zeros(10_000, 1)))
        >>> round(loss.item(), 1)
        1.4
    """

    log_density: Callable[[Tensor], Tensor]
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check(self.alpha > 0, ConfigError, f"alpha must be positive, got {self.alpha!r}; for 0 use ReverseKL.")

    def __call__(self, model: Density, batch: Batch) -> Tensor:
        """Weighted mean of ``-log q`` over as many draws as there are rows, in nats."""
        beta = self.beta if model.training else 1.0
        with torch.no_grad():
            x = model.sample(len(batch.x))
            log_p = beta * self.log_density(x)
        log_q = model(x)
        with torch.no_grad():
            log_w = torch.where(log_p.isneginf(), log_p, self.alpha * (log_p - log_q))
            w = (log_w - log_w.max()).exp()
            w = torch.minimum(w, len(w) ** 0.5 * w.mean())
            w = w / w.sum()
        return -(w * log_q).sum()
