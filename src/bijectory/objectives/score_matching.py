r"""Denoising score matching: the continuous flow of a score model is trained without solving its equation.

With :math:`z_t = \alpha x + \sigma\varepsilon`, the network's mean of the noise is regressed on the noise that was added,

.. math:: E_{t, x, \varepsilon}\; \lambda(t)\, \lVert \hat\varepsilon(z_t, t, c) - \varepsilon \rVert^2,

which has the same minimum for every :math:`\lambda`, the score. The weight of the likelihood makes it a bound: for the
density :math:`p_\theta` of the model's reverse stochastic equation, whatever its score, and data at the first time
:math:`t_0`,

.. math::
    E[-\log p_\theta] \le E\Bigl[-\log \pi(z_1) + \tfrac12 \int_{t_0}^1 \frac{g^2}{\sigma^2}
    \lVert \hat\varepsilon - \varepsilon \rVert^2 dt\Bigr] - d \log \frac{\sigma_1}{\sigma_{t_0}} .

Since :math:`g^2/\sigma^2 = \frac{d}{dt} \log (\sigma^2/\alpha^2)`, its importance sampling draws the log-ratio of noise to
signal uniformly.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations, Song+ 2020, arXiv:2011.13456, eq. 7.
    Maximum Likelihood Training of Score-Based Diffusion Models, Song, Durkan, Murray, Ermon 2021, arXiv:2101.09258,
    theorems 1 and 3, sec. 5.1 (importance sampling).
    Variational Diffusion Models, Kingma, Salimans, Poole, Ho 2021, arXiv:2107.00630, appendix I.1 (evenly spread times).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.densities.diffusion import find_diffusion
from bijectory.errors import ConfigError, check
from bijectory.nets import ProbabilityFlow, Schedule
from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import weighted_mean
from bijectory.ops.shape import sum_event

WEIGHTS: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    "likelihood": lambda p, t: p.alpha(t) / (p.sigma(t) * p.wronskian(t)),
    "sigma2": lambda p, t: (p.alpha(t) / p.wronskian(t)).square(),
    "v": lambda p, t: (p.alpha(t).square() + p.sigma(t).square()) / p.wronskian(t).square(),
    "velocity": lambda _, t: torch.ones_like(t),
}
"""Factors of the squared error of the *velocity*, which is that of the noise times ``w / alpha``."""

CELLS = 512  # of the proposal of times


@dataclasses.dataclass(frozen=True)
class ScoreMatching:
    r"""Denoising score matching of a flow with one ``Continuous`` layer of a ``ProbabilityFlow``, as ``score_sde`` makes it.

    Layers between the data and the model map the data first. Times are spread evenly over the rows of a batch, with one
    random shift, and a term of mean zero is subtracted: both take noise out of the value and leave its mean. In evaluation
    mode every row sees ``eval_draws`` times.

    Args:
        weighting: ``"likelihood"``: the value is the bound above, in nats per event, and all layers are trained, the
            base too. The others train the network alone: ``"sigma2"`` weighs the noise equally at all times, as the
            paper's default; ``"v"`` the mean of :math:`(\alpha\varepsilon - \sigma x)/s`; ``"velocity"`` the velocity, which
            is flow matching.
        times: ``"uniform"`` in the schedule's time, or ``"log-ratio"``: uniform in :math:`\log(\sigma/\alpha)`, and divided
            by that density, so that the expectation is the same. None: log-ratio for the likelihood, else uniform.
        eval_draws: Times and noises for each row in evaluation mode.

    Raises:
        ConfigError: If an argument is out of range; when called, if the flow is no score model, or its path starts
            without noise or ends without data where the weight is not finite.

    Example:
        >>> from bijectory import score_sde
        >>> flow = score_sde(2)
        >>> ScoreMatching()(flow, Batch(torch.zeros(8, 2))).shape
        torch.Size([])
    """

    weighting: Literal["likelihood", "sigma2", "v", "velocity"] = "likelihood"
    times: Literal["uniform", "log-ratio"] | None = None
    eval_draws: int = 8

    def __post_init__(self) -> None:
        known = list(WEIGHTS)
        check(self.weighting in WEIGHTS, ConfigError, f"weighting must be one of {known}, got {self.weighting!r}.")
        kinds = (None, "uniform", "log-ratio")
        check(self.times in kinds, ConfigError, f"times must be one of {kinds}, got {self.times!r}.")
        check(self.eval_draws >= 1, ConfigError, f"eval_draws must be at least 1, got {self.eval_draws}.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean over the rows of the batch."""
        if not isinstance(model, Flow):
            raise ConfigError(f"score matching trains a Flow, got {type(model).__name__}; see score_sde.")
        before, field, after = find_diffusion(model)
        bound = self.weighting == "likelihood"
        c = model._embed(batch.c)
        with torch.set_grad_enabled(bound and torch.is_grad_enabled()):
            x, ladj = before.forward(batch.x, c)
        draws = 1 if model.training else self.eval_draws
        loss = torch.stack([self._error(field, x, c, k / draws, 1 / draws) for k in range(draws)]).mean(0)
        if bound:
            e = torch.randn_like(x)
            loss = loss + self._ends(model, field, after, x, e, c) - ladj
        return weighted_mean(loss, batch.weight)

    def _error(self, field: ProbabilityFlow, x: Tensor, c: Tensor | None, low: float, width: float) -> Tensor:
        """Weighted squared error of a time in ``[low, low + width]`` of the proposal for each row."""
        n = len(x)
        u = (torch.arange(n, dtype=x.dtype, device=x.device) + torch.rand((), dtype=x.dtype, device=x.device)) / n
        log_ratio = self.times == "log-ratio" or (self.times is None and self.weighting == "likelihood")
        t, density = _times(field, low + width * u, log_ratio=log_ratio)
        path, e, events = field.schedule, torch.randn_like(x), len(field.event_shape)
        weight = WEIGHTS[self.weighting](path, t) / density
        z, v = path.at(t, x, e)
        error = sum_event((field.velocity(t, z, c) - v).square(), events)
        # The share of the noise in the error if the data were normal, less its known mean: most of the spread of the value.
        share = path.alpha(t) * path.wronskian(t) / (path.alpha(t).square() + path.sigma(t).square())
        return weight * (error - share.square() * (sum_event(e.square(), events) - x[0].numel()))

    def _ends(
        self, model: Flow, field: ProbabilityFlow, after: nn.Module, x: Tensor, e: Tensor, c: Tensor | None
    ) -> Tensor:
        """What the bound has beside the integral: ``-E log pi(z_1) - d log(sigma_1 / sigma_0)``."""
        path = field.schedule
        start, end = x.new_tensor(path.start), x.new_ones(())
        latent, ladj = after(path.at(end, x, e)[0], c)
        entries = x[0].numel()
        return -model.base.log_prob(latent, c) - ladj - entries * (path.sigma(end) / path.sigma(start)).log()


def _times(field: ProbabilityFlow, u: Tensor, *, log_ratio: bool) -> tuple[Tensor, Tensor]:
    """Times of quantiles ``u`` in (0, 1), and their density."""
    path = field.schedule
    if not log_ratio:
        span = 1 - path.start
        return path.start + span * u, torch.full_like(u, 1 / span)
    grid = field.time(torch.linspace(0, 1, CELLS + 1, dtype=u.dtype, device=u.device))
    level = (path.sigma(grid) / path.alpha(grid)).log()
    cdf = (level - level[0]) / (level[-1] - level[0])
    k = torch.searchsorted(cdf, u).clamp(1, CELLS)
    density = (cdf[k] - cdf[k - 1]) / (grid[k] - grid[k - 1])  # uniform in time within a cell: exact weights
    return grid[k - 1] + (u - cdf[k - 1]) / density, density
