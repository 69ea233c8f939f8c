"""The border to ``torch.distributions``: a flow, given its context, as a distribution."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bijectory.errors import ConfigError, check

if TYPE_CHECKING:
    from bijectory.densities.flow import Flow


class FlowDistribution(Distribution):
    """What ``flow.at(c)`` returns: ``p(x | c)`` with the batch shape of ``c``; shares the flow's weights.

    It has ``log_prob``, ``sample``, ``rsample`` and ``expand`` with the shapes of ``torch.distributions``. Argument
    validation follows torch's own switch (``Distribution.set_default_validate_args`` or ``validate_args``), left alone here.
    Draws come from torch's global generator, as those of every distribution; ``flow.sample`` takes a generator.

    Args:
        flow: The flow.
        c: Raw context, as for ``flow.log_prob``; None if the flow reads none.
        batch_shape: Batch shape of the context (after the flow's ``embed``), or any shape if there is none.
        support: Where the density lives; vectors of real numbers if None.
        validate_args: Whether to check values; torch's default if None.

    Example:
        >>> from bijectory import real_nvp
        >>> p = real_nvp(2, context=3).at(torch.zeros(7, 3))
        >>> p.batch_shape, p.event_shape, p.sample((5,)).shape
        (torch.Size([7]), torch.Size([2]), torch.Size([5, 7, 2]))
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own declaration)
    has_rsample = True

    def __init__(
        self,
        flow: "Flow",
        c: Tensor | None,
        batch_shape: torch.Size,
        *,
        support: constraints.Constraint | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.flow, self.c = flow, c
        self._support = support or constraints.independent(constraints.real, len(flow.event_shape))
        dims, event = self._support.event_dim, tuple(flow.event_shape)
        remedy = (
            f"constraints.independent(..., {len(event) - dims})" if dims < len(event) else "one of fewer dimensions"
        )
        check(
            dims == len(event),
            ConfigError,
            f"the support {self._support} has events of {dims} dimensions, the flow of {len(event)} {event}; use {remedy}.",
        )
        super().__init__(batch_shape, flow.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Events of real numbers, unless ``at`` was told another support."""
        return self._support

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats: ``(*sample, *batch, *event) -> (*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        logp = self.flow.log_prob(value, self.c)
        return logp.expand(torch.broadcast_shapes(logp.shape, self.batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with gradients: ``(*sample_shape, *batch, *event)``."""
        return self.flow.rsample(self._lead(sample_shape), self.c)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients: ``(*sample_shape, *batch, *event)``."""
        return self.flow.sample(self._lead(sample_shape), self.c)

    def _lead(self, sample_shape: Any) -> tuple[int, ...]:
        return (*sample_shape, *(self.batch_shape if self.c is None else ()))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """The same distribution for a larger batch; contexts are views."""
        batch_shape, c = torch.Size(batch_shape), self.c
        if c is not None:
            c = c.expand(*batch_shape, *c.shape[len(self.batch_shape) :])
        new = self._get_checked_instance(FlowDistribution, _instance)
        FlowDistribution.__init__(new, self.flow, c, batch_shape, support=self._support, validate_args=False)
        new._validate_args = self._validate_args
        return new
