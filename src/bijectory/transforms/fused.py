"""Runs: neighbouring layers of a chain that the native kernels compute in one call.

A call costs what a few operations of torch cost, whatever the number of layers, and a block of rows goes through all of them
while it is in the caches; see ``ops.layers``. A run takes couplings and autoregressive layers with the built-in perceptrons,
rational-quadratic splines and affine maps, stacks of planar maps, and between them permutations, linear layers and
elementwise affine maps, in both directions. Where a call cannot be native (captured, transformed, of another dtype than the
weights, derivatives through an inverse level by level), the layers run one by one as ever.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bijectory.bijections import Affine, RationalQuadratic
from bijectory.nets import MLP, MaskedMLP
from bijectory.nets.masked import MaskedDense
from bijectory.nets.mlp import Dense
from bijectory.ops.eager import is_direct
from bijectory.ops.layers import ACTIVATIONS, DEEPEST, Kept, Net, Program, Spec, plain, run, run_back
from bijectory.ops.native import MOST_BINS, REALS, is_first_order
from bijectory.ops.shape import expand_to_context, linear
from bijectory.transforms.autoregressive import Autoregressive
from bijectory.transforms.base import Inverse, Transform
from bijectory.transforms.coupling import Coupling
from bijectory.transforms.elementwise import Elementwise
from bijectory.transforms.linear import Linear
from bijectory.transforms.permutation import Permutation
from bijectory.transforms.planar import Planar
from bijectory.transforms.sink import Sink, Sunk, Tensors

Way = Literal["forward", "inverse"]
Job = Literal["forward", "inverse", "score"]


class Run:
    """Neighbouring layers as one, with the interface of a layer.

    Args:
        layers: In data -> latent order, all of which ``can_fuse``.
    """

    event_dim = latent_event_dim = 1
    sink: Sink | None = None  # where gradients of weights go past the graph

    def __init__(self, layers: Sequence[Transform]) -> None:
        self.layers = list(layers)
        self.context = max(layer.context for layer in layers)
        there = [describe(layer, "forward") for layer in layers]
        back = [describe(layer, "inverse") for layer in layers[::-1]]
        normal = Spec(there[-1].features, normal=True)
        self.jobs: dict[Job, tuple[Program, Sources]] = {
            "forward": (Program(there), Sources(layers, "forward")),
            "inverse": (Program(back), Sources(layers[::-1], "inverse")),
            "score": (Program([*there, normal]), Sources(layers, "forward", more=1)),
        }

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"sink": None}  # a copy has weights of its own

    def takes(self, x: Tensor) -> bool:
        """Whether a call without context is native."""
        return fits(x, None, self.jobs["forward"][1])

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> latent."""
        return self._apply("forward", x, c)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent -> data."""
        return self._apply("inverse", z, c)

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Data -> latent, the point alone."""
        return self._apply("forward", x, c)[0]

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Latent -> data, the point alone."""
        return self._apply("inverse", z, c)[0]

    def score(self, x: Tensor, c: Tensor | None = None) -> Tensor | None:
        """Log-density if the latents are standard normal; None where the call cannot be native."""
        found = self._native("score", expand_to_context(x, c, 1) if self.context else x, c)
        return None if found is None else found[1]

    def _apply(self, way: Way, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        x = expand_to_context(x, c, 1) if self.context else x
        found = self._native(way, x, c)
        if found is None:
            return one_by_one(self.layers if way == "forward" else self.layers[::-1], way, x, c)
        return found

    def _native(self, job: Job, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor] | None:
        program, sources = self.jobs[job]
        c = c if self.context else None
        if not fits(x, c, sources):
            return None
        tensors, ladj = sources(c, x.shape[:-1])
        graph = torch.is_grad_enabled() and (x.requires_grad or any(t is not None and t.requires_grad for t in tensors))
        if graph and program.sweeps:
            return None
        points = x if x.dim() == 2 else x.movedim(-1, 0).reshape(program.features, -1).mT
        if graph and self.sink is not None and self.sink.is_open:
            homes = self.sink.homes(program, tensors)
            graphed = [tensors[i] for i in homes.others]
            y, total = Sunk.apply(program, tensors, homes, self.sink.anchor, points, *graphed)
        elif graph:
            y, total = _Run.apply(program, points, *tensors)
        else:
            y, total, _ = run(program, points, tensors, keep=False)
        if x.dim() != 2:
            y, total = y.mT.reshape(program.features, *x.shape[:-1]).movedim(0, -1), total.reshape(x.shape[:-1])
        return y, total if ladj is None else total + ladj


class _Run(torch.autograd.Function):
    """The kernels with their derivatives; derivatives of those are taken through plain operations."""

    @staticmethod
    def forward(ctx: Any, program: Program, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        y, ladj, kept = run(program, x, tensors, keep=True)
        ctx.program = program
        ctx.save_for_backward(x, *kept, *tensors)  # type: ignore[misc]
        return y, ladj

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_ladj: Tensor) -> tuple[Tensor | None, ...]:
        x, points, sums, *tensors = ctx.saved_tensors
        if is_first_order(g_y, g_ladj):
            g_x, gradients = run_back(ctx.program, Kept(points, sums), tensors, g_y, g_ladj)
            return None, g_x, *gradients
        with torch.enable_grad():
            wanted = [(i, t) for i, t in enumerate((x, *tensors)) if t is not None and t.requires_grad]
            y = plain(ctx.program, x, tensors)
            found = torch.autograd.grad(y, [t for _, t in wanted], (g_y, g_ladj), create_graph=True, allow_unused=True)
        result: Tensors = [None] * (1 + len(tensors))
        for (i, _), g in zip(wanted, found, strict=True):
            result[i] = g
        return None, *result


def one_by_one(layers: Sequence[Transform], way: Way, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """The layers in plain operations."""
    total = None
    for layer in layers:
        x, ladj = layer.forward(x, c) if way == "forward" else layer.inverse(x, c)
        total = ladj if total is None else total + ladj
    return x, total  # type: ignore[return-value]  # a run holds at least one layer


def fits(x: Tensor, c: Tensor | None, sources: "Sources") -> bool:
    """Whether a call can be native: on the CPU, of one dtype with the weights and the context, without autocast."""
    if x.dtype not in REALS or x.device.type != "cpu" or not is_direct(x) or torch.is_autocast_enabled("cpu"):
        return False
    return sources.dtype == x.dtype and (c is None or (c.dtype == x.dtype and is_direct(c)))


# ---- what a layer is to the kernels --------------------------------------------------------------------------------------


def can_fuse(layer: Transform) -> bool:
    """Whether the kernels can compute a layer."""
    if isinstance(layer, Inverse):
        return can_fuse(layer.transform)
    if type(layer) is Permutation:
        return True
    if isinstance(layer, Linear):
        return layer.net is None
    if type(layer) is Planar:
        return layer.net is None
    if type(layer) is Elementwise:
        return layer.phi is not None and _is_affine(layer)
    if type(layer) is Coupling:
        return type(layer.net) is MLP and _has_kernel(layer.net) and _has_map(layer)
    if type(layer) is Autoregressive:
        net = layer.net
        return (
            type(net) is MaskedMLP and net.direct is None and _has_kernel(net) and _has_map(layer) and _is_sorted(net)
        )
    return False


def _has_kernel(net: MLP | MaskedMLP) -> bool:
    return net.activation in ACTIVATIONS and 0 < len(net.hidden) < DEEPEST and len(net.layers) == len(net.hidden)


def _has_map(layer: Coupling | Autoregressive) -> bool:
    b = layer.bijection
    if type(b) is RationalQuadratic:
        return b.bins <= MOST_BINS and b.precision == "input"
    return _is_affine(layer)


def _is_affine(layer: Coupling | Autoregressive | Elementwise) -> bool:
    return type(layer.bijection) is Affine and layer.bijection.max_log_scale is not None


def _is_sorted(net: MaskedMLP) -> bool:
    """Whether every row of every product reads leading columns, inputs in topological order: so it is for a total order."""
    masks = [layer._mask.bool() for layer in (*net.layers, net.head)]
    masks[0] = masks[0][:, list(net.topological)]
    return all(bool((m == (torch.arange(m.shape[1], device=m.device) < m.sum(1, keepdim=True))).all()) for m in masks)


def unwrap(layer: Transform, way: Way) -> tuple[Transform, Way]:
    """What is within an ``Inverse``, and its direction."""
    while isinstance(layer, Inverse):
        layer, way = layer.transform, "inverse" if way == "forward" else "forward"
    return layer, way


def describe(layer: Transform, way: Way) -> Spec:
    """A layer in one direction, without its weights."""
    own: Any  # one of those that `can_fuse` lets pass
    own, way = unwrap(layer, way)
    if isinstance(own, Permutation):
        return Spec(own.features, permutes=True)
    if isinstance(own, Linear):
        return Spec(own.features)
    if isinstance(own, Planar):
        return Spec(own.features, inverse=way == "inverse", ridges=own.layers)
    net, b = own.net, own.bijection
    if isinstance(own, Elementwise):
        return Spec(own.features, bound=b.max_log_scale, inverse=way == "inverse", scales=True)
    grid = b.grid if isinstance(b, RationalQuadratic) else None
    bound = 0.0 if grid else b.max_log_scale
    widths = (*net.hidden, net.head.weight.shape[0])
    if isinstance(own, Coupling):
        kept = tuple(i for i, m in enumerate(own.mask) if m)
        moved = tuple(i for i, m in enumerate(own.mask) if not m)
        return Spec(own.features, Net(net.activation, widths, kept), moved, b.n_params, grid, bound, way == "inverse")
    limits = tuple(tuple(m._mask.sum(1).int().tolist()) for m in (*net.layers, net.head))
    hidden = net._known[1:]
    known = tuple((n, *(0 if level == 0 else k[level - 1] for k in hidden)) for level, n in enumerate(net._known[0]))
    conditioner = Net(net.activation, widths, net.topological, limits, known)
    every = tuple(range(own.features))
    return Spec(own.features, conditioner, every, b.n_params, grid, bound, way == "inverse")


class Sources:
    """Where the tensors of a run come from, in the order of ``ops.layers``.

    Args:
        layers: In the order of application.
        way: The direction.
        more: Layers without tensors that follow.
    """

    def __init__(self, layers: Sequence[Transform], way: Way, more: int = 0) -> None:
        # Weights are looked up where a module keeps them, many times faster than as its attributes.
        self.slots: list[tuple[dict[str, Any], str] | None] = []
        self.terms: list[tuple[int, Dense | MaskedDense]] = []
        self.linears: dict[Any, list[tuple[int, Linear]]] = {}
        own: Any
        for layer in layers:
            own, own_way = unwrap(layer, way)
            if isinstance(own, Permutation):
                self.slots += [(own._buffers, "_order" if own_way == "forward" else "_rank"), None, None]
            elif isinstance(
                own, Linear
            ):  # those that differ in nothing but their weights are made into matrices together
                facts = tuple(v for v in vars(own).values() if isinstance(v, (bool, int, float)))
                self.linears.setdefault((type(own), own_way, facts), []).append((len(self.slots), own))
                self.slots += [None, None, None]
            elif isinstance(own, (Planar, Elementwise)):
                self.slots += [(own._parameters, "phi"), None, None]
            else:
                products: list[Dense | MaskedDense] = [*own.net.layers, own.net.head]
                for product in products:
                    self.slots += [(product._parameters, "weight"), (product._parameters, "bias")]
                if own.context:
                    self.terms.append((len(self.slots), products[0]))
                self.slots.append(None)
        self.slots += [None] * 3 * more
        self.first = next(i for i, slot in enumerate(self.slots) if slot is not None and slot[1] in ("weight", "phi"))

    def weights(self) -> list[Tensor]:
        """The weights themselves, without what is computed from weights."""
        found = [slot[0][slot[1]] for slot in self.slots if slot is not None]
        return [t for t in found if isinstance(t, torch.nn.Parameter) and t.dtype == self.dtype]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        where, name = self.slots[self.first]  # type: ignore[misc]
        return where[name].dtype

    def __call__(self, c: Tensor | None, batch: torch.Size) -> tuple[Tensors, Tensor | None]:
        """The tensors, and the log-determinants that do not depend on the point.

        Args:
            c: Context.
            batch: Joint batch shape of ``x`` and ``c``.
        """
        tensors: Tensors = [None if slot is None else slot[0][slot[1]] for slot in self.slots]
        for i, product in self.terms:
            term = linear(c, product.context_weight)  # type: ignore[arg-type]
            tensors[i] = term.expand(*batch, term.shape[-1]).movedim(-1, 0).reshape(term.shape[-1], -1).contiguous()
        total = None
        for (_, way, _), members in self.linears.items():
            weights, biases, ladj = _matrices([own for _, own in members], way)
            for (i, _), weight, bias in zip(members, weights, biases, strict=True):
                tensors[i], tensors[i + 1] = weight, bias
            total = ladj if total is None else total + ladj
        return tensors, total


def _matrices(layers: Sequence[Linear], way: Way) -> tuple[Sequence[Any], Sequence[Tensor | None], Tensor]:
    """The matrices and biases of linear layers of one kind in a direction, and the sum of their log-determinants."""
    there = way == "forward"
    if layers[0]._ladj is not None:
        ladj = torch.stack([layer._ladj for layer in layers]).sum()  # type: ignore[misc]  # frozen, as the first is
        if there:
            return [layer._product for layer in layers], [layer.shift for layer in layers], ladj
        return [layer._inverse for layer in layers], [layer._origin for layer in layers], -ladj
    factors = torch.stack([layer.factors for layer in layers])
    ladj = layers[0]._log_det(factors).sum()
    if there:
        return layers[0]._weight(factors).contiguous().unbind(), [layer.shift for layer in layers], ladj
    eye = torch.eye(factors.shape[-1], dtype=torch.float64)  # an explicit inverse would lose digits in float32
    weights = layers[0]._solve(factors.double().unsqueeze(1), eye).mT.to(factors.dtype).contiguous().unbind()
    biases = [None if layer.shift is None else -(w @ layer.shift) for w, layer in zip(weights, layers, strict=True)]
    return weights, biases, -ladj


def fuse(layers: Sequence[Transform]) -> list[Transform | Run]:
    """A chain with its runs in place of their layers; a run holds at least one conditioned layer or planar map."""
    steps: list[Transform | Run] = []
    start = 0
    while start < len(layers):
        stop = start
        while stop < len(layers) and can_fuse(layers[stop]) and _features(layers[stop]) == _features(layers[start]):
            stop += 1
        part = list(layers[start:stop])
        if any(spec.net or spec.ridges for spec in (describe(layer, "forward") for layer in part)):
            steps.append(Run(part))
        else:
            steps += part or [layers[start]]
        start = max(stop, start + 1)
    return steps


def _features(layer: Transform) -> int:
    return unwrap(layer, "forward")[0].features  # type: ignore[return-value]
