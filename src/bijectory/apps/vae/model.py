"""The variational autoencoder: an encoder, an approximate posterior, a likelihood and a prior."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bijectory.apps.vae.bounds import ActiveUnits, LogLikelihood
from bijectory.apps.vae.likelihoods import Likelihood
from bijectory.densities import Density, DiagonalNormal, Flow, StandardNormal
from bijectory.errors import ConfigError, ShapeError, check, check_type
from bijectory.spec import register

CHUNK_VALUES = 1 << 22  # decoded values (rows x samples x parameters) at a time: bounds the memory of an evaluation


class Elbo(NamedTuple):
    r"""The evidence lower bound of each row and its terms, nats; ``bound = reconstruction - kl``.

    Attributes:
        bound: :math:`\mathcal L(x) \le \log p(x)`, ``(*batch,)``.
        reconstruction: :math:`E_q[\log p(x|z)]`, ``(*batch,)``.
        kl: :math:`\mathrm{KL}(q(z|x)\,\|\,p(z))`, ``(*batch,)``: in closed form between a diagonal normal and the standard
            normal, else the mean of :math:`\log q - \log p` over the draws, which may be negative.

    Example:
        >>> Elbo(torch.tensor(-3.0), torch.tensor(-2.0), torch.tensor(1.0)).bound
        tensor(-3.)
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


@register
class VAE(nn.Module):
    r"""Variational autoencoder :math:`p(x) = \int p(x|z)\,p(z)\,dz` with an amortised posterior :math:`q(z|x)`.

    Any networks and densities that fit together:

    Args:
        encoder: Any module ``x (n, *event) -> code (n, width)``; ``width`` is the context of the posterior.
        posterior: Density of the latent ``(latent,)`` given the code, best with draws and density in one pass: see
            ``amortized_posterior``, or any conditional flow.
        likelihood: Distribution of events given the latent; its network is any module ``z (n, latent) -> raw parameters``.
        prior: Density of the latent, a flow if you like; None for the standard normal.

    Raises:
        ConfigError: If the widths do not fit together.

    References:
        Auto-Encoding Variational Bayes, Kingma, Welling 2013, arXiv:1312.6114; Variational Inference with Normalizing
        Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 15.

    Example:
        >>> from bijectory.apps.vae import GaussianValues, amortized_posterior
        >>> encoder = nn.Sequential(nn.Linear(5, 8), nn.SiLU())
        >>> vae = VAE(encoder, amortized_posterior("planar", 2, 8, layers=4), GaussianValues(5, 2, nn.Linear(2, 5)))
        >>> x = torch.zeros(3, 5)
        >>> vae.elbo(x).bound.shape, vae.log_likelihood(x, samples=10).log_prob.shape, vae.sample(7).shape
        (torch.Size([3]), torch.Size([3]), torch.Size([7, 5]))
    """

    def __init__(
        self, encoder: nn.Module, posterior: Density, likelihood: Likelihood, prior: Density | None = None
    ) -> None:
        super().__init__()
        for name, part, kind in (
            ("encoder", encoder, nn.Module),
            ("posterior", posterior, Density),
            ("likelihood", likelihood, Likelihood),
        ):
            check_type(part, kind, name)
        prior = StandardNormal(posterior.event_shape) if prior is None else prior
        check_type(prior, Density, "prior")
        latent = (likelihood.latent,)
        check(
            tuple(posterior.event_shape) == latent and tuple(prior.event_shape) == latent and prior.context == 0,
            ConfigError,
            f"the likelihood reads latents {latent}; the posterior is one of {tuple(posterior.event_shape)}, the prior one "
            f"of {tuple(prior.event_shape)} (context={prior.context}): give all three the same width, the prior no context.",
        )
        check(posterior.context >= 1, ConfigError, "the posterior has no context, so it cannot depend on x.")
        self.encoder, self.posterior, self.likelihood, self.prior = encoder, posterior, likelihood, prior
        self.event_shape, self.latent = likelihood.event_shape, likelihood.latent

    # -- bounds --------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Same as ``elbo(x).bound``."""
        return self.elbo(x).bound

    def elbo(self, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None) -> Elbo:
        """Evidence lower bound of each row with its terms, differentiable: ``(*batch, *event) -> (*batch,)`` each.

        Args:
            x: Events.
            samples: Draws of the posterior that are averaged.
            generator: Source of randomness; the global one if None.
        """
        reconstruction, kl = (t.mean(0) for t in self.elbo_terms(x, samples, generator))
        return Elbo(reconstruction - kl, reconstruction, kl)

    def elbo_terms(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``log p(x|z)``, ``(samples, *batch)``, and the KL term: of every draw, or ``(1, *batch)`` in closed form."""
        code = self.code(x)
        z, log_q = self.posterior.rsample_and_log_prob(samples, code, generator=generator)
        if self.closed_form:
            mean, s = self.posterior.moments(code)  # type: ignore[operator]  # a DiagonalNormal
            kl = (0.5 * (mean.square() + (2 * s).exp() - 1) - s).sum(-1).unsqueeze(0)
        else:
            kl = log_q - self.prior.log_prob(z)
        return self.likelihood.log_prob(x, z), kl

    @property
    def closed_form(self) -> bool:
        """Whether the KL term is known without draws."""
        return isinstance(self.posterior, DiagonalNormal) and isinstance(self.prior, StandardNormal)

    def log_weights(self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """``log p(x|z) + log p(z) - log q(z|x)`` of draws from the posterior, ``(samples, *batch)``, with gradients."""
        return self._log_weights(x, self.code(x), samples, generator)

    @torch.no_grad()
    def log_likelihood(
        self, x: Tensor, samples: int = 1000, *, seed: int | None = 0, chunk_values: int = CHUNK_VALUES
    ) -> LogLikelihood:
        r"""Importance-weighted log-likelihood :math:`\log\frac1S\sum_s w_s` of each row, with error and effective draws.

        A lower bound in expectation that tends to :math:`\log p(x)` as ``samples`` grows; see ``LogLikelihood``.

        Args:
            x: ``(n, *event)``.
            samples: Draws :math:`S` of the posterior for each row.
            seed: Of the draws; None takes the global generator of torch.
            chunk_values: Decoded values at a time; bounds the memory, not the result (beside its random draws).

        Raises:
            ConfigError: If there is no sample.
            ShapeError: If ``x`` is not ``(n, *event)``.

        References:
            Importance Weighted Autoencoders, Burda, Grosse, Salakhutdinov 2016, arXiv:1509.00519, eq. 8.
        """
        check(samples >= 1, ConfigError, f"samples must be at least 1, got {samples}.")
        self._check_rows(x)
        generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)
        first, second = (x.new_zeros(len(x), dtype=torch.float64) for _ in range(2))
        for rows, width in self._plan(len(x), samples, chunk_values):
            first[rows], second[rows] = self._chunked(x[rows], samples, width, generator)
        return LogLikelihood.of_sums(first, second, samples)

    @torch.no_grad()
    def active_units(
        self, x: Tensor, samples: int = 32, *, threshold: float = 0.01, seed: int | None = 0
    ) -> ActiveUnits:
        r"""Latent dimensions whose posterior mean moves with the data, :math:`\mathrm{Var}_x E_{q(z|x)}[z_j] > 0.01`.

        Means are over draws; the variance that these add is taken off.

        Args:
            x: ``(n, *event)``, at least two rows.
            samples: Draws for each row, at least two.
            threshold: Least variance of an active unit.
            seed: Of the draws; None takes the global generator.

        Raises:
            ConfigError: On fewer than two rows or samples.

        References:
            Importance Weighted Autoencoders, Burda+ 2016, arXiv:1509.00519, sec. 5.2.
        """
        self._check_rows(x)
        ok = len(x) >= 2 and samples >= 2
        check(ok, ConfigError, f"active units need 2 rows and 2 samples at least, got {len(x)} and {samples}.")
        generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)
        draws = [self.posterior.sample(samples, self.code(rows), generator=generator) for rows in x.split(512)]
        z = torch.cat(draws, 1).double()
        variance = z.mean(0).var(0) - z.var(0).mean(0) / samples
        return ActiveUnits(int((variance > threshold).sum()), variance)

    # -- events and latents --------------------------------------------------------------------------------------------

    def code(self, x: Tensor) -> Tensor:
        """What the encoder says about events: ``(*batch, *event) -> (*batch, width)``.

        Raises:
            ShapeError: If events have another shape, or the encoder puts out another width.
        """
        n = len(self.event_shape)
        fits = x.dim() >= n and x.shape[x.dim() - n :] == self.event_shape
        shape = ", ".join(map(str, self.event_shape))
        check(fits, ShapeError, f"x has shape {tuple(x.shape)}; this model takes (*batch, {shape}).")
        batch = x.shape[: x.dim() - n]
        rows = math.prod(batch)
        code = self.encoder(x.reshape(rows, *self.event_shape))
        want = (rows, self.posterior.context)
        check(
            tuple(code.shape) == want,
            ShapeError,
            f"the encoder turns ({rows}, {shape}) into {tuple(code.shape)}, the posterior reads a code {want}.",
        )
        return code.reshape(*batch, self.posterior.context)

    def encode(self, x: Tensor, samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of ``q(z|x)`` without gradients, ``(samples, *batch, latent)``."""
        with torch.no_grad():
            return self.posterior.sample(samples, self.code(x), generator=generator)

    def decode(self, z: Tensor) -> Tensor:
        """Mean of ``p(x|z)``: ``(*batch, latent) -> (*batch, *event)``, differentiable."""
        return self.likelihood.mean(z)

    def reconstruct(self, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Mean of ``p(x|z)`` over draws of ``q(z|x)``, ``(*batch, *event)``, without gradients."""
        with torch.no_grad():
            return self.decode(self.encode(x, samples, generator=generator)).mean(0)

    @torch.no_grad()
    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draws of the model, ``(*shape, *event)``, without gradients.

        Args:
            shape: Number of draws.
            seed: None takes the global generator of torch.
            mean: Means of ``p(x|z)`` in place of draws from it: smoother than what the model says.
        """
        device = next(self.parameters()).device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        z = self.prior.sample(shape, generator=generator)
        return self.likelihood.mean(z) if mean else self.likelihood.sample((), z, generator=generator)

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        """Data-dependent initialisation of a prior that is a flow, from draws of the posterior at training rows."""
        if isinstance(self.prior, Flow):
            self.prior.initialize(self.encode(x[:2048])[0])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _log_weights(self, x: Tensor, code: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
        z, log_q = self.posterior.rsample_and_log_prob(samples, code, generator=generator)
        return self.likelihood.log_prob(x, z) + self.prior.log_prob(z) - log_q

    def _chunked(self, x: Tensor, samples: int, width: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Log of the sum of the weights and of that of their squares, float64, ``width`` samples at a time."""
        code = self.code(x)
        sums = [x.new_full((len(x),), -math.inf, dtype=torch.float64) for _ in range(2)]
        for start in range(0, samples, width):
            log_w = self._log_weights(x, code, min(width, samples - start), generator).double()
            sums = [torch.logaddexp(s, (k * log_w).logsumexp(0)) for k, s in enumerate(sums, 1)]
        return sums[0], sums[1]

    def _plan(self, n: int, samples: int, chunk_values: int) -> Iterator[tuple[slice, int]]:
        """Rows and samples of each chunk."""
        pairs = max(1, chunk_values // (self.event_shape.numel() * self.likelihood.n_params))
        width = min(samples, pairs)
        rows = max(1, pairs // width)
        for start in range(0, n, rows):
            yield slice(start, start + rows), width

    def _check_rows(self, x: Tensor) -> None:
        shape = ", ".join(map(str, self.event_shape))
        check(x.shape[1:] == self.event_shape, ShapeError, f"x has shape {tuple(x.shape)}, expected (n, {shape}).")
