"""The flow: a transform over a base density."""

import copy
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from bijectory.densities.audit import Audit
from bijectory.densities.base import Density
from bijectory.densities.distribution import FlowDistribution
from bijectory.densities.measure import audit
from bijectory.densities.normal import StandardNormal
from bijectory.densities.validate import check_batches, check_context, check_events, check_shape
from bijectory.errors import ShapeError, check, check_type
from bijectory.nets import Freezable
from bijectory.ops.shape import expand_to_context, feature_major
from bijectory.transforms.base import Transform
from bijectory.transforms.chain import compile_regions, use_native
from bijectory.transforms.regions import RegionWarning
from bijectory.transforms.stochastic import estimate_with_error


class Flow(Density):
    r"""Normalizing flow: exact log-density and exact samples from a transform :math:`f` and a base density.

    Args:
        transform: :math:`f`, data -> latent.
        base: Density of the latent; may itself be a flow.
        embed: A network that turns a raw context (image, set, label) into ``(*batch, context)``, applied once per call.

    Raises:
        ShapeError, DtypeError, ContextError: From every method, when the input does not fit the flow.

    Example:
        >>> from bijectory import Affine, Elementwise, StandardNormal
        >>> flow = Flow(Elementwise(Affine(), 2), StandardNormal(2))
        >>> flow.log_prob(torch.zeros(5, 2)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    def __init__(self, transform: Transform, base: Density, embed: nn.Module | None = None) -> None:
        super().__init__()
        check_type(transform, Transform, "transform")
        check_type(base, Density, "base")
        if embed is not None:
            check_type(embed, nn.Module, "embed")
        self.transform, self.base, self.embed = transform, base, embed
        self.event_shape = transform.data_shape(base.event_shape)
        self.context = max(transform.context, base.context)
        self.exact = transform.exact and base.exact
        self.surface = base.surface

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Log-density in nats, ``log p(x | c)``: ``(*batch, *event) -> (*batch,)``."""
        c = self._embed(c)
        x = self._enter(x, c)
        run = self.transform._native_run if type(self.base) is StandardNormal else None
        whole = None if run is None else run.score(x, c)
        if whole is not None:
            return whole
        z, ladj = self.transform.forward(x, c)
        return self.base.log_prob(z, c) + ladj

    def log_prob_and_error(
        self, x: Tensor, c: Tensor | None = None, *, samples: int = 16, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-density with its standard error, from fresh draws of every layer that estimates its log-determinant.

        Unbiased as far as the layers are: ``Continuous`` is, ``Residual`` with the roulette is. The error is that of these
        draws, 0 without such layers; it counts neither the error of a solver nor a base density that is itself a bound. A
        95 % interval is the mean ± 2.13 errors for 16 samples, see ``transforms.stochastic`` for others. No gradients.

        Args:
            x: ``(*batch, *event)``.
            c: Context.
            samples: Number of independent estimates, at least 2; each costs a ``log_prob``.
            generator: Source of randomness; the global one if None.

        Returns:
            Mean and standard error, ``(*batch,)`` each.

        Raises:
            ConfigError: If ``samples < 2``.

        Example:
            >>> from bijectory import residual
            >>> logp, error = residual(2, layers=1, ladj="roulette").log_prob_and_error(torch.zeros(5, 2))
            >>> logp.shape, bool((error > 0).all())
            (torch.Size([5]), True)
        """
        return estimate_with_error(self, lambda flow: flow.log_prob(x, c), samples, generator)

    def to_latent(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> latent: ``z`` and ``log|det dz/dx|``."""
        c = self._embed(c)
        return self.transform.forward(self._enter(x, c), c)

    def to_data(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent -> data: ``x`` and ``log|det dx/dz|``."""
        c = self._embed(c)
        check_events(self, z, self.base.event_shape, "z")
        return self.transform.inverse(self._layout(z, c, self.transform.latent_event_dim), c)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        shape, c = check_shape(shape), self._embed(c)
        z = self.base.rsample(shape, c, generator=generator)
        return self.transform.decode(self._layout(z, c, self.transform.latent_event_dim), c)

    def rsample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws with gradients and their log-density, in one pass through the layers: ``base(z) - ladj``."""
        shape, c = check_shape(shape), self._embed(c)
        z, log_base = self.base.rsample_and_log_prob(shape, c, generator=generator)
        x, ladj = self.transform.inverse(self._layout(z, c, self.transform.latent_event_dim), c)
        return x, log_base - ladj

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        """Unit cube -> data, through the quantiles of the base: ``(*batch, *latent event) -> (*batch, *event)``."""
        c = self._embed(c)
        shape, found = self.base.event_shape, tuple(u.shape)
        ok = u.dim() >= len(shape) and u.shape[u.dim() - len(shape) :] == shape
        check(ok, ShapeError, f"u has shape {found}; this flow maps the cube of its base, (*batch, {tuple(shape)}).")
        z = self.base.from_uniform(u, c)
        return self.transform.decode(self._layout(z, c, self.transform.latent_event_dim), c)

    def at(self, c: Tensor | None = None, *, support: Constraint | None = None) -> FlowDistribution:
        """The flow at a context, ``p(x | c)``, as a ``torch.distributions.Distribution`` with the batch shape of ``c``.

        Args:
            c: Context.
            support: Where the density lives, for libraries that map it onto the real space; vectors of reals if None.
                Flows that begin with a layer on an interval (``Logit``, ``Log``) need it, e.g.
                ``constraints.independent(constraints.interval(0, 1), 1)``.
        """
        embedded = self._embed(c)
        batch = torch.Size() if embedded is None else embedded.shape[:-1]
        return FlowDistribution(self, c, batch, support=support)

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        """Set data-dependent parameters (ActNorm, Standardize) from training data, once and explicitly."""
        c = self._embed(c)
        self.transform.initialize(self._enter(x, c), c)

    def check(self, x: Tensor, c: Tensor | None = None, *, seed: int = 0) -> Audit:
        """Audit the flow on data: is it invertible, is its log-determinant right, is it normalised?

        Measures round trips, the log-determinant against autodiff, the mass, the agreement of draws with the density,
        the effect of every context dimension, and names the worst layer. How well the flow *fits* is reported as
        information only. Works on a copy; takes a second or so, more with many features.

        Args:
            x: Held-out data, ``(*batch, *event)``, at least 2 rows; at most 1024 are used.
            c: Their contexts.
            seed: Of the draws and of the choice of rows.

        Returns:
            An ``Audit``: print it, or read ``.ok``, ``.rows`` and ``.to_dict()``.

        Raises:
            NonFiniteError: If ``x`` holds NaN or infinity.

        Example:
            >>> from bijectory import Affine, Elementwise, StandardNormal
            >>> flow = Flow(Elementwise(Affine(), 2), StandardNormal(2))
            >>> flow.check(flow.sample(100)).ok
            True
        """
        return audit(self, x, c, seed=seed)

    def frozen(self) -> "Flow":
        """Return a copy for evaluation: in eval mode, without gradients, and with everything precomputed that pays.

        Masks are multiplied into weights, triangular factors are multiplied and inverted. The copy gives the same
        numbers (to rounding) and does not follow later changes of this flow. It is stored as any flow, and loads as the
        plain one. Choose dtype and device before freezing.

        Example:
            >>> from bijectory import LU, StandardNormal
            >>> flow = Flow(LU(2), StandardNormal(2))
            >>> torch.equal(flow.frozen().log_prob(torch.ones(2)), flow.log_prob(torch.ones(2)))
            True
        """
        flow = copy.deepcopy(self).eval().requires_grad_(requires_grad=False)
        for module in flow.modules():
            if isinstance(module, Freezable):
                module.freeze()
        return flow

    def compiled(self, *, backend: Literal["native", "inductor"] | str = "native") -> "Flow":
        """Return a copy that runs in compiled code: the same numbers to rounding, faster.

        ``"native"``, on the CPU: couplings and autoregressive layers with their conditioners, affine or spline, stacks of
        planar maps without context, and the permutations, linear and elementwise affine layers between them, run in kernels
        of our own, neighbours in one call, in both directions and with first derivatives; rational-quadratic splines
        elsewhere run in kernels too. So does ``Continuous`` on a fixed grid with a ``TimeMLP`` of one or two hidden layers
        (of tanh, silu or softplus), an exact trace and gradients through the solver: the whole solve is one call. They are
        compiled in a few seconds, once for a machine, and kept in the user's cache. Small batches gain most, and draws of
        autoregressive flows. Second derivatives and ``torch.func`` take the plain operations. On a GPU, where the flow must
        be already, rational-quadratic splines of up to 32 bins run in Triton kernels, and nothing else changes.

        ``"inductor"``, or another backend of ``torch.compile``: layers with closed forms are compiled in regions, the
        shortest run of layers that repeats, once for all repetitions and batch sizes. The first call of each direction
        compiles, with and without gradients apart: half a minute or more each on a cold disk cache, seconds on a warm one
        (torch keeps compiled code under ``TORCHINDUCTOR_CACHE_DIR``, by default in the temporary folder). On a CPU it
        saves dispatch in the log-densities of small batches; it cannot be differentiated twice.

        Without a C++ compiler (on a GPU: without Triton), or with nothing to compile, there is one warning and the copy
        runs as before. For scoring and sampling alone, ``flow.frozen().compiled()`` is the fastest. The copy is stored as
        any flow.

        Args:
            backend: See above.

        Example:
            >>> from bijectory import nsf
            >>> flow = nsf(2)
            >>> with warnings.catch_warnings():
            ...     warnings.simplefilter("ignore")  # on a machine without a compiler it says so
            ...     fast = flow.compiled()
            >>> torch.allclose(fast.log_prob(torch.ones(3, 2)), flow.log_prob(torch.ones(3, 2)), atol=1e-5)
            True
        """
        flow = copy.deepcopy(self)
        try:
            found = use_native(flow) if backend == "native" else compile_regions(flow, backend=backend)
        except OSError as error:
            warnings.warn(f"compile failed, going on without: {error}", RegionWarning, stacklevel=2)
            return flow
        if not found:
            names = ", ".join(sorted({type(m).__name__ for m in flow.transform.modules() if isinstance(m, Transform)}))
            missing = "nothing that the kernels know" if backend == "native" else "nothing to compile"
            warnings.warn(f"{missing} in {names}; the copy runs as before.", RegionWarning, stacklevel=2)
        return flow

    def _embed(self, c: Tensor | None) -> Tensor | None:
        if self.embed is not None and c is not None:
            c = self.embed(c)
        check_context(self, c, self.context)
        return c if self.context else None

    def _enter(self, x: Tensor, c: Tensor | None) -> Tensor:
        check_events(self, x, self.event_shape, "x")
        return self._layout(x, c, self.transform.event_dim)

    def _layout(self, x: Tensor, c: Tensor | None, event_dim: int) -> Tensor:
        check_batches(x, c, event_dim)
        x = expand_to_context(x, c, event_dim)
        return feature_major(x) if event_dim == 1 and not self.transform._any_layout else x
