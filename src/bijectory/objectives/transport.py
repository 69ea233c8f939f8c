r"""Maximum likelihood along paths of optimal transport (OT-Flow).

Of all fields that carry the data to the latent, the one of least transport cost moves every point on a straight line at
constant speed, so that few steps of a solver follow it. It is the descent of a potential :math:`\Phi` which solves a
Hamilton-Jacobi-Bellman equation. With the state goes

.. math::
    L = \int_0^1 \tfrac12 |v|^2\, dt, \qquad
    R = \int_0^1 \bigl| \partial_t \Phi - \tfrac12 |\nabla \Phi|^2 \bigr|\, dt,

both gathered in the same solve as the log-determinant.
"""

import dataclasses
import math

from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.errors import ConfigError, DtypeError, check
from bijectory.nets import Field, Potential
from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import nll, weighted_mean
from bijectory.ops.ode import State, adaptive, fixed
from bijectory.ops.shape import sum_event
from bijectory.transforms import Chain, Continuous, Transform


@dataclasses.dataclass(frozen=True)
class TransportRegularized:
    r"""Negative log-likelihood plus the transport cost and the Hamilton-Jacobi-Bellman residual of continuous layers.

    .. math:: -\log p(x) + \lambda_L L + \lambda_R R

    in nats per event, summed over the continuous layers of a chain. The paper weighs the likelihood (:math:`\alpha_1`) and
    not the transport: its weights divided by :math:`\alpha_1` are these. The defaults are those of its smallest table. In
    evaluation mode it is ``nll``, so that validation compares likelihoods. Gradients pass through the operations of the
    solver, whatever the layer says.

    Args:
        transport: :math:`\lambda_L`.
        hjb: :math:`\lambda_R`; has an effect on fields that are a ``Potential``.

    Raises:
        ConfigError: If a weight is negative or not finite; when called, if the flow has no continuous layer as a link of its
            chain, or one with an estimated trace.
        DtypeError: When called on something else than a flow.

    References:
        OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport, Onken, Wu Fung, Li, Ruthotto 2021,
        arXiv:2006.00104, eq. 4-6.

    Example:
        >>> import torch
        >>> from bijectory import otflow
        >>> TransportRegularized()(otflow(2, hidden=16), Batch(torch.zeros(5, 2))).shape
        torch.Size([])
    """

    transport: float = 0.01
    hjb: float = 0.15

    def __post_init__(self) -> None:
        for name, value in (("transport", self.transport), ("hjb", self.hjb)):
            ok = math.isfinite(value) and value >= 0
            check(ok, ConfigError, f"{name} must be a finite number of at least 0, got {value!r}.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean over the rows, in nats."""
        if not isinstance(model, Flow):
            raise DtypeError(f"paths are those of a Flow, got {type(model).__name__}.")
        if not model.training:
            return nll(model, batch)
        links = _links(model.transform)
        followed = [t for t in links if isinstance(t, Continuous)]
        remedy = "put a Continuous layer into its chain, or train it with nll."
        check(bool(followed), ConfigError, f"this flow has no path to regularise; {remedy}")
        remedy = "build the layer with trace='exact'."
        check(all(t.exact for t in followed), ConfigError, f"the path of an estimated trace is not followed; {remedy}")
        c = batch.c if batch.c is None or model.embed is None else model.embed(batch.c)
        x, loss = batch.x, batch.x.new_zeros(len(batch.x))
        for t in links:
            if isinstance(t, Continuous):
                x, ladj, path, residual = follow(t, x, c)
                loss = loss + self.transport * path + self.hjb * residual
            else:
                x, ladj = t.forward(x, c)
            loss = loss - sum_event(ladj, ladj.dim() - 1)
        return weighted_mean(loss - model.base.log_prob(x, c), batch.weight)


def follow(layer: Continuous, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data -> latent through a continuous layer with an exact trace, and what the path costs.

    Args:
        layer: The layer.
        x: ``(n, *event)``.
        c: Context ``(n, context)``.

    Returns:
        ``z``, ``log|det dz/dx|``, and the integrals ``L`` and ``R`` of the room, ``(n,)`` each; ``R`` is 0 unless the field
        is a ``Potential``.

    Example:
        >>> import torch
        >>> layer = Continuous(Potential(2, hidden=8))
        >>> z, ladj, path, residual = follow(layer, torch.zeros(5, 2))
        >>> path.shape, residual.shape
        (torch.Size([5]), torch.Size([5]))
    """
    field, c = layer.field, c if layer.context else None
    zero = x.new_zeros(x.shape[: x.dim() - layer.event_dim])

    def slope(t: Tensor, y: State) -> State:
        v, trace, residual = _rates(field, t, y[0], c)
        return v, trace, sum_event(v.square(), layer.event_dim) / 2, residual

    state: State = (x, zero, zero, zero)
    if layer.steps is None:
        control = {
            "rtol": layer.rtol,
            "atol": layer.atol,
            "max_steps": layer.max_steps,
            "method": layer.method,
            "gathered": 3,
        }
        state = adaptive(slope, state, batch_dim=zero.dim(), **control).y  # type: ignore[arg-type]
    else:
        state = fixed(slope, state, steps=layer.steps, method=layer.method, gathered=3)
    return state[0], state[1], state[2], state[3]


def _rates(field: Field, t: Tensor, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity, divergence, and the absolute residual of the equation."""
    if isinstance(field, Potential):
        v, trace, residual = field.with_costs(t, z, c)
        return v, trace, residual.abs()
    v, trace = field.with_divergence(t, z, c)
    return v, trace, trace.new_zeros(trace.shape)


def _links(transform: Transform) -> list[Transform]:
    """The layers of a chain (of chains), in order."""
    return [link for t in transform for link in _links(t)] if isinstance(transform, Chain) else [transform]
