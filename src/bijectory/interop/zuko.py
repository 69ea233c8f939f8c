r"""Weights of zuko: its masked autoregressive flows, ``MAF`` and ``NSF``, as flows of this library.

The masked perceptron of zuko obeys the same rule as ``MaskedMLP``: every hidden unit owns a set of inputs, and reads a unit
below only if that unit's set is a part of its own. Only the numbers of units for each set differ, so the network here is
made wide enough for every set, and the units without a counterpart have zero weights. The two scalar families are zuko's
own: its raw parameters are softly clipped, :math:`a \mapsto a / (1 + |a / \log\epsilon|)`, where those here are not.

References: zuko, Rozet et al., MIT licence, version 1.6 (the layout of its state dict and the formulas).
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bijectory.bijections import Bijection
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import CheckpointError, ConfigError, check
from bijectory.nets import MaskedMLP
from bijectory.nets.activations import ACTIVATIONS
from bijectory.ops import masks
from bijectory.ops.spline import SplineGrid, rational_quadratic, rational_quadratic_inverse
from bijectory.spec import register
from bijectory.transforms import Autoregressive, Chain

State = Mapping[str, Tensor]
ONE = math.log(math.expm1(1.0))  # raw slope of the kernel at slope 1


def _clipped(raw: Tensor, limit: float) -> Tensor:
    return raw / (1 + (raw / limit).abs())


@register
@dataclasses.dataclass(frozen=True)
class ZukoAffine(Bijection):
    r"""Affine map :math:`y = x e^{s} + t` with zuko's bound, :math:`s = a / (1 + |a / \log\epsilon|)`.

    Args:
        slope: :math:`\epsilon`, the least slope.

    Example:
        >>> ZukoAffine().forward(torch.ones(1), torch.tensor([[2.0], [0.0]]))
        (tensor([3.]), tensor([0.]))
    """

    slope: float = 1e-3

    @property
    def n_params(self) -> int:
        return 2

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = _clipped(phi[1], math.log(self.slope))
        y = x * s.exp() + phi[0]
        return y, s.expand(y.shape)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = _clipped(phi[1], math.log(self.slope))
        x = (y - phi[0]) * (-s).exp()
        return x, -s.expand(x.shape)


@register
@dataclasses.dataclass(frozen=True)
class ZukoSpline(Bijection):
    r"""Rational-quadratic spline with zuko's parameters: widths and heights clipped at :math:`\tfrac12\log\epsilon`.

    Knot slopes are :math:`e^{d}` with :math:`d` clipped at :math:`\log\epsilon`. The identity outside the box.

    Args:
        bins: Number of bins.
        bound: Half width of the box.
        slope: :math:`\epsilon`.

    Example:
        >>> round(float(ZukoSpline(4).forward(torch.ones(1), torch.zeros(11, 1))[0]), 4)
        1.0
    """

    bins: int = 8
    bound: float = 5.0
    slope: float = 1e-3

    @property
    def n_params(self) -> int:
        return 3 * self.bins - 1

    def _native(self, phi: Tensor) -> tuple[Tensor, SplineGrid]:
        k, limit = 2 * self.bins, math.log(self.slope)
        slopes = _clipped(phi[k:], limit).exp()
        raw = slopes + torch.log(-torch.expm1(-slopes)) - ONE  # softplus undone
        return torch.cat((_clipped(phi[:k], limit / 2), raw)), SplineGrid(self.bins, self.bound, "identity", 0.0, 0.0)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(x, *self._native(phi))

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_inverse(y, *self._native(phi))


def from_zuko(state: State, *, activation: str = "relu", bound: float = 5.0, slope: float = 1e-3) -> Flow:
    """A ``zuko.flows.MAF`` or ``NSF`` from its state dict; the same densities, to rounding.

    Sizes, orders (also ``passes=2``, couplings) and the number of bins are read off the weights. The flow samples by levels,
    as every autoregressive flow here, and can be trained on, stored and loaded (after ``import bijectory.interop``).

    Args:
        state: ``flow.state_dict()``; ``safetensors.torch.load_file`` or ``torch.load(..., weights_only=True)`` read it.
        activation: Name of the activation of its networks; zuko's default is ReLU.
        bound: Half width of the box of splines.
        slope: Least slope, zuko's ``slope``.

    Raises:
        CheckpointError: If the state is not one of such a flow: other layers, residual networks, another base, a graph given
            by ``adjacency``, or a single feature.
        ConfigError: If the activation is unknown.

    Example:
        >>> from bijectory.interop import from_zuko
        >>> flow = from_zuko(zuko.flows.NSF(3, 2).state_dict())  # doctest: +SKIP
    """
    known = ", ".join(ACTIVATIONS)
    check(activation in ACTIVATIONS, ConfigError, f"activation {activation!r} is none of {known}.")
    base, scale = state.get("base.loc"), state.get("base.scale")
    ok = base is not None and scale is not None and bool((base == 0).all() and (scale == 1).all())
    check(
        ok,
        CheckpointError,
        "this is no MAF or NSF of zuko: its base is not the standard normal (base.loc, base.scale).",
    )
    found = [re.match(r"transform\.transforms\.(\d+)\.", key) for key in state]
    count = 1 + max((int(m[1]) for m in found if m), default=-1)
    check(count > 0, CheckpointError, "the state holds no transforms (keys transform.transforms.*).")
    layers = [_layer(state, f"transform.transforms.{i}.", activation, bound, slope) for i in range(count)]
    flow = Flow(Chain(*layers), StandardNormal(layers[0].features))
    return flow.to(dtype=base.dtype)  # type: ignore[union-attr]


def _layer(state: State, prefix: str, activation: str, bound: float, slope: float) -> Autoregressive:
    order = state.get(f"{prefix}order")
    if order is None:
        raise CheckpointError(f"{prefix}order is missing: not a MAF or NSF of at least two features.")
    found = [re.fullmatch(re.escape(prefix) + r"hyper\.(\d+)\.weight", key) for key in state]
    places = sorted(int(m[1]) for m in found if m)
    plain = bool(places) and not any(re.match(re.escape(prefix) + r"hyper\.\d+\.\d+\.", key) for key in state)
    check(plain, CheckpointError, f"{prefix}hyper is not a plain masked perceptron (residual=True is not read).")
    dense = [tuple(state[f"{prefix}hyper.{k}.{n}"] for n in ("weight", "bias", "mask")) for k in places]
    features = len(order)
    total, rest = divmod(len(dense[-1][0]), features)
    spline = total >= 5 and total % 3 == 2
    known = rest == 0 and (total == 2 or spline)
    check(known, CheckpointError, f"{prefix}: {total} parameters for each feature are neither affine nor a spline.")
    family: Bijection = ZukoSpline((total + 1) // 3, bound, slope) if spline else ZukoAffine(slope)
    graph = order[:, None] > order
    net = masked_mlp(dense, graph, total, activation, prefix)
    return Autoregressive(family, features, net.context, adjacency=graph, net=net)


def masked_mlp(dense: list[tuple[Tensor, ...]], graph: Tensor, n_params: int, activation: str, name: str) -> MaskedMLP:
    """A ``MaskedMLP`` with given weights, biases and masks ``(o, i)`` of each layer.

    Args:
        dense: From the inputs (features, then context) to the outputs, whose rows are feature-major (``f * P + p``).
        graph: ``(features, features)``, row ``i`` the parents of ``i``.
        n_params: ``P``.
        activation: Of the hidden layers.
        name: Of the network, for errors.
    """
    features, context = len(graph), dense[0][0].shape[1] - len(graph)
    level = masks.feature_levels(graph)
    sets, _ = masks.parent_sets(graph, level, empty=context > 0)
    index = {tuple(row.tolist()): k for k, row in enumerate(sets)}
    reads = torch.eye(features, dtype=torch.bool)  # the set of each unit of the layer below
    widths, places = [], [torch.arange(features)]
    for k, (_, _, mask) in enumerate(dense[:-1]):
        mask = mask.bool()[:, :features] if k == 0 else mask.bool()
        reads = (mask.float() @ reads.float()) > 0
        owner = [index.get(tuple(row.tolist()), -1) for row in reads]
        check(min(owner) >= 0, CheckpointError, f"{name}: a hidden unit reads inputs that belong to no feature.")
        width, place = _seats(torch.tensor(owner), len(sets), empty=context > 0)
        widths.append(width)
        places.append(place)
    net = MaskedMLP(features, n_params, widths, context, adjacency=graph, activation=activation, head_scale=1.0)
    net.to(dtype=dense[0][0].dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        for k, (weight, bias, mask) in enumerate(dense):
            layer, given, columns = (*net.layers, net.head)[k], weight * mask, places[k]
            rows = (
                places[k + 1]
                if k < len(widths)
                else torch.arange(n_params * features).reshape(n_params, features).T.flatten()
            )
            inner = given[:, :features] if k == 0 else given
            layer.weight[rows[:, None], columns] = inner
            layer.bias[rows] = bias
            if k == 0 and context:
                layer.context_weight[rows] = given[:, features:]
            lost = layer.weight * (1 - layer._mask)
            check(not bool(lost.any()), CheckpointError, f"{name}: its masks are not those of its order.")
    return net


def _seats(owner: Tensor, n_sets: int, *, empty: bool) -> tuple[int, Tensor]:
    """The least width that holds enough units of every set, and a place for each of ours."""
    need = torch.bincount(owner, minlength=n_sets)
    width = len(owner)
    while bool((torch.bincount(masks.share_units(width, n_sets, empty=empty), minlength=n_sets) < need).any()):
        width += 1
    units = masks.share_units(width, n_sets, empty=empty)
    place = torch.empty_like(owner)
    for s in range(n_sets):
        mine = (owner == s).nonzero().flatten()
        place[mine] = (units == s).nonzero().flatten()[: len(mine)]
    return width, place
