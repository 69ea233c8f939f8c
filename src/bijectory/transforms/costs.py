"""Costs of the paths of continuous layers, through a chain."""

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.shape import sum_event
from bijectory.transforms.base import Transform
from bijectory.transforms.chain import Chain
from bijectory.transforms.continuous import Continuous


def forward_with_costs(
    transform: Transform, x: Tensor, c: Tensor | None = None, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Data -> latent with the costs of ``Continuous.forward_with_costs``, which add along a chain like the log-determinant.

    Args:
        transform: ``Continuous``, or a chain (of chains) with such layers among others; the others cost nothing.
        x: ``(*batch, *event)``.
        c: Context ``(*batch, context)``.
        generator: Where fresh probes come from; the global one if None.

    Returns:
        ``z``, ``log|det dz/dx|``, and the costs by their names, ``(*batch,)`` each; an empty dictionary if there are none.

    Raises:
        ConfigError: If there is a continuous layer inside another transform than a chain.

    Example:
        >>> from bijectory import ffjord
        >>> sorted(forward_with_costs(ffjord(2, layers=2).transform, torch.zeros(5, 2))[2])
        ['jacobian', 'kinetic']
    """
    if isinstance(transform, Continuous):
        return transform.forward_with_costs(x, c, generator=generator)
    if not isinstance(transform, Chain):
        hidden = any(isinstance(m, Continuous) for m in transform.modules())
        kind = type(transform).__name__
        check(
            not hidden,
            ConfigError,
            f"the path of a Continuous inside of {kind} cannot be followed; put the layer into the chain itself.",
        )
        return *transform.forward(x, c), {}
    events, totals = transform.event_dim, {"ladj": x.new_zeros(x.shape[: x.dim() - transform.event_dim])}
    for t in transform:
        x, ladj, costs = forward_with_costs(t, x, c, generator=generator)
        events += t.latent_event_dim - t.event_dim
        for name, value in {"ladj": ladj, **costs}.items():
            # A layer may see dimensions of the event as batch: they belong to one row here.
            value = sum_event(value, value.dim() - (x.dim() - events))
            totals[name] = totals[name] + value if name in totals else value
    return x, totals.pop("ladj"), totals
