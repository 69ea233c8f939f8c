"""Composition of transforms."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn

from bijectory.bijections import RationalQuadratic
from bijectory.errors import DtypeError, check
from bijectory.ops.eager import is_direct
from bijectory.ops.native import REALS, has_triton, native, on_gpu, prepare
from bijectory.ops.shape import sum_event
from bijectory.transforms.base import Transform
from bijectory.transforms.continuous import Continuous
from bijectory.transforms.fused import Run, can_fuse, fuse
from bijectory.transforms.fused_field import solved
from bijectory.transforms.planar import Planar
from bijectory.transforms.regions import Plan, Region, Way
from bijectory.transforms.sink import Sink

T = TypeVar("T")


class Chain(Transform):
    """Transforms applied one after the other, listed in data -> latent order.

    ``forward`` runs them left to right, ``inverse`` right to left; log-determinants add. An empty chain is the
    identity on vectors. ``chain[i]`` is a transform, ``chain[i:j]`` a chain that shares the layers.

    Raises:
        DtypeError: If an item is not a ``Transform``.

    Example:
        >>> from bijectory import Affine, Elementwise
        >>> chain = Chain(Elementwise(Affine(), 2), Elementwise(Affine(), 2))
        >>> z, ladj = chain.forward(torch.zeros(5, 2))
        >>> z.shape, ladj.shape, len(chain[:1])
        (torch.Size([5, 2]), torch.Size([5]), 1)
    """

    _plans: dict[Way, Plan] | None = None  # how to run in compiled regions; see `compile_regions`
    _kernels: Callable[[], AbstractContextManager[None]] | None = None  # `native` to run in kernels; see `use_native`
    _steps: list[Transform | Run] | None = None  # the layers, with runs for those that the kernels take in one call

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        for t in transforms:
            check(isinstance(t, Transform), DtypeError, f"a Chain takes Transforms, got {type(t).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        # Layers may change the number of event dimensions; the chain starts with as many as its neediest layer asks for.
        steps = list(itertools.accumulate((t.latent_event_dim - t.event_dim for t in transforms), initial=0))
        self.event_dim = max((t.event_dim - s for t, s in zip(transforms, steps, strict=False)), default=1)
        self.latent_event_dim = self.event_dim + steps[-1]
        self.exact = all(t.exact for t in transforms)
        self.context = max((t.context for t in transforms), default=0)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plan = self._plan("forward", x)
        return self._in_kernels(self._forward, x, c) if plan is None else plan(x, c)

    def _forward(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        total, events = None, self.event_dim
        for t in self._parts:
            x, ladj = t.forward(x, c)
            events += t.latent_event_dim - t.event_dim
            total = _add(total, ladj, x.dim() - events)
        return x, x.new_zeros(x.shape[: x.dim() - events]) if total is None else total

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plan = self._plan("inverse", z)
        return self._in_kernels(self._inverse, z, c) if plan is None else plan(z, c)

    def _inverse(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        total, events = None, self.latent_event_dim
        for t in reversed(self._parts):
            z, ladj = t.inverse(z, c)
            events += t.event_dim - t.latent_event_dim
            total = _add(total, ladj, z.dim() - events)
        return z, z.new_zeros(z.shape[: z.dim() - events]) if total is None else total

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        plan = self._plan("forward", x)
        return self._in_kernels(self._encode, x, c) if plan is None else plan.without_ladj(x, c)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        for t in self._parts:
            x = t.encode(x, c)
        return x

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        plan = self._plan("inverse", z)
        return self._in_kernels(self._decode, z, c) if plan is None else plan.without_ladj(z, c)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        for t in reversed(self._parts):
            z = t.decode(z, c)
        return z

    @property
    def _parts(self) -> Sequence[Transform | Run]:
        """What runs one after the other."""
        return self._steps or list(self)

    def _plan(self, way: Way, x: Tensor) -> Plan | None:
        """How compiled regions take ``x``, if there are any for it."""
        plan = self._plans.get(way) if self._plans else None
        return plan if plan and plan.applies(x) else None

    def _in_kernels(self, function: Callable[[Tensor, Tensor | None], T], x: Tensor, c: Tensor | None) -> T:
        """Call with kernels switched on, where they are wanted and can be."""
        if self._kernels is None or not is_direct(x):
            return function(x, c)
        with self._kernels():
            return function(x, c)

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        for t in self:
            data_shape = t.latent_shape(data_shape)
        return data_shape

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        for t in reversed(list(self)):
            latent_shape = t.data_shape(latent_shape)
        return latent_shape

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        for t in self:
            t.initialize(x, c)
            with torch.no_grad():
                x, _ = t.forward(x, c)

    @property
    def _native_run(self) -> Run | None:
        if not self._steps or len(self._steps) > 1 or type(self).forward is not Chain.forward:
            return None
        return self._steps[0] if isinstance(self._steps[0], Run) else None

    @property
    def _any_layout(self) -> bool:  # type: ignore[override]  # a plain attribute of layers
        return self._steps is not None and all(isinstance(self._steps[i], Run) for i in (0, -1))

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)  # type: ignore[arg-type]

    def __getitem__(self, index: int | slice) -> Transform:
        return Chain(*self.transforms[index]) if isinstance(index, slice) else self.transforms[index]  # type: ignore[return-value]


def _add(total: Tensor | None, ladj: Tensor, batch_dim: int) -> Tensor:
    """Add one layer's log-determinant, summed over the event dimensions that the layer treated as batch."""
    ladj = sum_event(ladj, ladj.dim() - batch_dim)
    return ladj if total is None else total + ladj


def use_native(module: nn.Module) -> bool:
    """Let chains, planar maps and continuous flows run in native kernels what they know, in place: see ``Flow.compiled``.

    The kernels are compiled here, once for a machine, in a few seconds; on a GPU by Triton.

    Args:
        module: A flow, or whatever holds chains, on the CPU or a GPU.

    Returns:
        Whether there is anything to run; else nothing is changed.

    Raises:
        OSError: If there is no C++ compiler (on a GPU: no Triton), or it fails.

    Example:
        >>> from bijectory import radial
        >>> use_native(radial(2))
        False
    """
    chains, stacks, solutions = _native_chains(module), _native_stacks(module), _native_solutions(module)
    found_any = bool(chains or stacks or solutions)
    if found_any:
        dtype = next((p.dtype for p in module.parameters() if p.dtype in REALS), torch.float32)
        found = (getattr(m, "bijection", None) for chain in chains for m in chain.modules())
        prepare(_device(module), dtype, {spline.grid for spline in found if isinstance(spline, RationalQuadratic)})
    for chain in chains:
        chain._kernels, chain._steps = native, None if on_gpu(_device(module)) else fuse(list(chain))
    for stack in stacks:
        stack._native_run = Run([stack])
    for solution in solutions:
        solution._kernels = solved
    return found_any


def sink_of(transform: Transform) -> Sink | None:
    """Where gradients of a transform's weights may go past the graph, see ``Sink``; None if none of them can.

    Only runs that the transform itself calls count, not those within layers that may differentiate them on their own.
    """
    sink = Sink(_own_runs(transform))
    return sink if sink.weights else None


def _own_runs(transform: Transform) -> list[Run]:
    if not isinstance(transform, Chain):
        return [] if transform._native_run is None else [transform._native_run]
    found: list[Run] = []
    for step in transform._parts:
        found += [step] if isinstance(step, Run) else _own_runs(step)
    return found


def has_native(module: nn.Module, *, solves: bool = True) -> bool:
    """Whether ``use_native`` would find something to do in log-densities.

    Args:
        module: A flow, or whatever holds chains.
        solves: Whether continuous flows count; not for an objective that reads their fields alone.

    Example:
        >>> from bijectory import nsf, radial, real_nvp
        >>> has_native(nsf(2)), has_native(real_nvp(2)), has_native(radial(2))
        (True, True, False)
    """
    if not all(has_triton() if on_gpu(p.device) else p.device.type == "cpu" for p in module.parameters()):
        return False
    if solves and any(m.exact for m in _native_solutions(module, joint=True)):
        return True
    return bool(_native_chains(module) or _native_stacks(module))


def _native_chains(module: nn.Module) -> list[Chain]:
    """Chains with a layer that the kernels take whole (on the CPU), or with a spline somewhere within."""
    chains, whole = [m for m in module.modules() if isinstance(m, Chain)], not on_gpu(_device(module))
    return [
        c
        for c in chains
        if any(_is_spline(m) for m in c.modules()) or (whole and any(isinstance(s, Run) for s in fuse(list(c))))
    ]


def _native_stacks(module: nn.Module) -> list[Planar]:
    """Stacks of planar maps, on the CPU: those outside of chains run by themselves."""
    return [m for m in module.modules() if isinstance(m, Planar) and can_fuse(m) and not on_gpu(_device(module))]


def _native_solutions(module: nn.Module, *, joint: bool = False) -> list[Continuous]:
    """Continuous flows that the kernels solve on the CPU; with ``joint``, their exact traces too."""
    found = [] if on_gpu(_device(module)) else module.modules()
    return [m for m in found if isinstance(m, Continuous) and m._has_kernel(joint=joint)]


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _is_spline(module: nn.Module) -> bool:
    return isinstance(getattr(module, "bijection", None), RationalQuadratic)


def compile_regions(
    module: nn.Module, *, backend: str = "inductor", ways: Sequence[Way] = ("forward", "inverse")
) -> set[Region]:
    """Let every chain in a module run in compiled regions, in place; nothing is compiled before it is called.

    Args:
        module: A flow, or whatever holds chains. Chains whose layers change the number of event dimensions stay plain.
        backend: Of ``torch.compile``.
        ways: Directions.

    Returns:
        The different regions, of which each costs its compilation once; empty if there is nothing to compile.

    Example:
        >>> from bijectory import real_nvp
        >>> flow = real_nvp(4, layers=8)
        >>> len(compile_regions(flow, backend="eager", ways=["forward"]))
        1
        >>> plain_layers(flow)
    """
    found: set[Region] = set()
    for chain in [m for m in module.modules() if isinstance(m, Chain)]:
        plans: dict[Way, Plan] = {}
        same = all(t.event_dim == t.latent_event_dim == chain.event_dim for t in chain)
        for way in ways if same else ():
            layers = list(chain) if way == "forward" else list(chain)[::-1]
            plan = Plan(layers, way, backend)
            if plan.regions:
                plans[way] = plan
                found |= plan.regions
        chain._plans = plans or None
    return found


def plain_layers(module: nn.Module) -> None:
    """Undo ``use_native`` and ``compile_regions``.

    Example:
        >>> from bijectory import real_nvp
        >>> plain_layers(real_nvp(4))
    """
    for layer in module.modules():
        if isinstance(layer, Chain):
            layer._plans = layer._kernels = layer._steps = None
        elif isinstance(layer, Planar):
            layer._native_run = None
        elif isinstance(layer, Continuous):
            layer._kernels = None
