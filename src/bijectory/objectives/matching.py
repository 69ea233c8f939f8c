r"""Flow matching: a continuous flow trained by regression, without solving its equation.

The field of the layer ``Continuous`` is fitted to the velocities of paths from data to the base,

.. math:: L = E_{t,\, (x, e)}\; \lambda(t)\, \|v_\theta(t, z_t, c) - v_t\|^2 / d.

Its minimiser is the conditional mean of the velocity, :math:`v^*(t, z) = E[v_t | z_t = z]`, whose equation has the marginals
of the paths at every time: the data at :math:`t = 0`, the base at :math:`t = 1`. The trained module is the flow: its
log-likelihood and its draws need no conversion. The loss is *not* a likelihood: its minimum is the mean variance of the
velocity about :math:`v^*`, so losses of different paths or couplings cannot be compared.

Path, coupling, distribution of times, solver and network are chosen independently of each other.

References:
    Flow Matching for Generative Modeling, Lipman+ 2022, arXiv:2210.02747, theorem 2 and eq. 9.
    Flow Straight and Fast (rectified flow), Liu, Gong, Liu 2022, arXiv:2209.03003, eq. 1.
    Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport, Tong+ 2023, arXiv:2302.00482.
    Stochastic Interpolants, Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.densities.validate import check_context, check_events
from bijectory.errors import ConfigError, ContextError, ShapeError, check
from bijectory.objectives.batch import Batch
from bijectory.objectives.couplings import Coupling, Independent, Pairs
from bijectory.objectives.geodesic import natural_path
from bijectory.objectives.likelihood import weighted_mean
from bijectory.objectives.paths import Path
from bijectory.objectives.times import Times, UniformTimes, stratified
from bijectory.transforms import Chain, Confined, Continuous, Transform

EVALUATION_PAIRS = 4096  # a small batch in evaluation is used several times over, for a loss that can be compared


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    r"""Mean square of the error of the velocity, per entry of an event, along paths from data to the base.

    For a ``Flow`` whose transform is ``Continuous``, as it is or ``Confined``, or a ``Chain`` that ends in the only one. The
    layers before it are kept as they are (``fit`` initialises them), and matching takes place in the space behind them: a
    scaling that could be trained would make the loss small by making the data small. Noise is drawn from the flow's base.

    In evaluation mode small batches are used several times over, with other noise; noise comes from the global generator,
    so ``fit`` validates with the same noise each time.

    Args:
        path: From data to base; None: geodesics where the field is on a manifold, straight lines elsewhere.
        coupling: Which draw goes with which row.
        times: At which times.
        weighting: :math:`\lambda`, of times ``(n,)``; None for 1.

    Raises:
        ConfigError: When called, if the flow has no continuous layer at its end, or another one before it.
        ShapeError: When called, if the shapes of rows, base and field do not fit.

    References:
        Flow Matching for Generative Modeling, Lipman+ 2022, arXiv:2210.02747, eq. 9.

    Example:
        >>> from bijectory import cnf
        >>> loss = FlowMatching()(cnf(2), Batch(torch.zeros(1000, 2)))  # the field is 0 at first, the velocity normal
        >>> bool(abs(loss - 1) < 0.2)
        True
    """

    path: Path | None = None
    coupling: Coupling = dataclasses.field(default_factory=Independent)
    times: Times = dataclasses.field(default_factory=UniformTimes)
    weighting: Callable[[Tensor], Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Evaluate the loss on (weighted) rows."""
        flow, prefix, layer = matched(model)
        path = natural_path(layer.field) if self.path is None else self.path
        x, e, c = self._ends(flow, batch)
        with torch.no_grad():
            x, _ = prefix.forward(x, c if prefix.context else None)
        event = layer.field.event_shape
        repeats = 1 if flow.training else -(-EVALUATION_PAIRS // max(1, len(x)))
        drawn = []
        for _ in range(repeats):
            noise = draw_base(flow, len(x), c) if e is None else e
            ok = noise.shape == x.shape and x.shape[1:] == event
            shapes = f"rows {tuple(x.shape)}, draws of the base {tuple(noise.shape)}, events of the field {event}"
            check(ok, ShapeError, f"{shapes} do not fit; give the flow a base with the events of the field.")
            drawn.append(self.coupling.pair(Pairs(x, noise, c, batch.weight), path.cost))
        pairs = _joined(drawn)
        t = path.start + (path.end - path.start) * self.times.quantile(stratified(len(pairs.x), pairs.x))
        z, v = path.at(t, pairs.x, pairs.e)
        error = layer.field(t, z, pairs.c if layer.context else None) - v
        losses = error.square().flatten(1).mean(1)
        return weighted_mean(losses if self.weighting is None else self.weighting(t) * losses, pairs.weight)

    def _ends(self, flow: Flow, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rows in data space, their draws of the base where the data hold them, and the embedded context."""
        x, c = batch.x, batch.c
        e = None
        if self.coupling.given:
            shape = (len(x), 2, *flow.event_shape)
            ok = tuple(x.shape) == shape and flow.base.event_shape == flow.event_shape
            check(ok, ShapeError, f"x has shape {tuple(x.shape)}; pairs of data and base have {shape}, see reflow.")
            x, e = x.unbind(1)
            ok = c is None or (c.shape[1:2] == (1,) and (flow.embed is not None or c.dim() == 3))
            check(
                ok, ShapeError, f"contexts of pairs are (n, 1, *context), got {None if c is None else tuple(c.shape)}."
            )
            c = None if c is None else c.squeeze(1)
        check_events(flow, x, flow.event_shape, "x")
        if flow.embed is not None and c is not None:
            c = flow.embed(c)
        check_context(flow, c, flow.context)
        ok = x.dim() == 1 + len(flow.event_shape) and (c is None or len(c) == len(x))
        check(
            ok,
            ContextError,
            f"x {tuple(x.shape)} and c {None if c is None else tuple(c.shape)} must have the same rows.",
        )
        return x, e, c


def _joined(parts: list[Pairs]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    columns = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return Pairs(*columns)  # type: ignore[arg-type]


def matched(model: nn.Module) -> tuple[Flow, Chain, Continuous]:
    """The flow, the layers before its continuous one, and that one.

    Raises:
        ConfigError: If there is no flow, or its transform does not end in its only continuous layer.
    """
    check(isinstance(model, Flow), ConfigError, f"flow matching trains a Flow, got {type(model).__name__}.")
    layers = _flat(model.transform)  # type: ignore[arg-type]
    found = [type(t).__name__ for t in layers]
    ok = bool(layers) and isinstance(layers[-1], Continuous) and found.count("Continuous") == 1
    remedy = "use a recipe such as cfm or cnf, or Flow(Chain(..., Continuous(field)), base)"
    check(ok, ConfigError, f"flow matching needs one Continuous layer, at the end; this flow has {found}; {remedy}.")
    return model, Chain(*layers[:-1]), layers[-1]  # type: ignore[return-value]


def _flat(transform: Transform) -> list[Transform]:
    if isinstance(transform, Confined):  # the same map, but for the error of the solver and whole turns
        return _flat(transform.transform)
    return [t for part in transform for t in _flat(part)] if isinstance(transform, Chain) else [transform]


def draw_base(flow: Flow, n: int, c: Tensor | None) -> Tensor:
    """``n`` draws of the base, one for each context if it reads one, without gradients.

    Raises:
        ConfigError: If the base cannot be drawn from.
    """
    try:
        return flow.base.sample((), c) if flow.base.context else flow.base.sample(n)
    except NotImplementedError:
        name = type(flow.base).__name__
        raise ConfigError(f"flow matching draws from the base, and {name} cannot be drawn from; use another.") from None
