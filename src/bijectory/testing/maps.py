"""Laws of every invertible map, scalar or vector: what a bijection and a transform have in common."""

import copy
import pickle

import torch
from torch import Tensor
from torch.func import vmap

from bijectory.testing.subject import Subject, Way, detached, event_dim, unchanged
from bijectory.testing.violation import Law, law, require, require_close

BATCHES = ((), (7,), (5, 7), (0,))
EXTREMES = (1e4, -1e4, 1e5, -1e6, 1e6)


@law
def round_trip(s: Subject) -> None:
    """``inverse(forward(x)) = x`` and ``forward(inverse(z)) = z``."""
    for way in s.ways():
        x, side = way.inputs(64), s.side(64)
        y = way.call(x, side)[0]
        slack = _wobble(s, way, y, side)[0] / s.tolerance.round_trip
        require_close(f"{way.name} and back", way.back(y, side)[0], x, s.tolerance.round_trip, 1 + x.abs() + slack)


@law
def ladj_opposite(s: Subject) -> None:
    """``ladj(forward) = -ladj(inverse)`` at the same point."""
    for way in s.ways():
        x, side = way.inputs(64), s.side(64)
        y, ladj = way.call(x, side)
        slack = _wobble(s, way, y, side)[1] / s.tolerance.ladj
        require_close(
            f"-ladj(back) after {way.name}", -way.back(y, side)[1], ladj, s.tolerance.ladj, 1 + ladj.abs() + slack
        )


@law
def inputs_untouched(s: Subject) -> None:
    """A call changes neither its inputs nor the buffers of the module, and uses no global randomness."""
    built = s.trained()
    state = copy.deepcopy(_state(built))
    for way in s.ways(built):
        x, side = way.inputs(7), s.side(7)
        before, rng = [t.clone() for t in (x, side) if t is not None], torch.get_rng_state()
        way.call(x, side)
        for k, (now, was) in enumerate(zip((x, side), before, strict=False)):
            require(torch.equal(now, was), f"{way.name} changes its argument {k}")  # type: ignore[arg-type]
        require(torch.equal(torch.get_rng_state(), rng), f"{way.name} draws from the global random generator")
        changed = [k for k, v in _state(built).items() if not torch.equal(v, state[k])]
        require(not changed, f"{way.name} changes {changed}")


@law
def batch_shapes(s: Subject) -> None:
    """Any batch shape, ``()`` and ``(0,)`` included, gives rows equal to a plain batch."""
    for way in s.ways():
        for batch in BATCHES:
            x, side = way.inputs(*batch), s.side(*batch)
            y, ladj = way.call(x, side)
            event = way.back(y, side)[0].shape[len(batch) :]
            require(event == x.shape[len(batch) :], f"{way.name} with batch {batch}: back to event {tuple(event)}")
            want = y.shape if event_dim(s.fresh()) == 0 else torch.Size(batch)
            require(y.shape[: len(batch)] == torch.Size(batch), f"{way.name} maps batch {batch} to {tuple(y.shape)}")
            require(ladj.shape == want, f"{way.name} with batch {batch}: ladj is {tuple(ladj.shape)}")
        x, side = way.inputs(5, 7), s.side(5, 7)
        flat = None if side is None else side.flatten(s.side_dim, s.side_dim + 1)
        _same(s, f"{way.name} on (35,)", way.call(x.flatten(0, 1), flat), [t.flatten(0, 1) for t in way.call(x, side)])


@law
def rows_are_independent(s: Subject) -> None:
    """The result of a row does not depend on its neighbours, be they NaN; a NaN row stays NaN."""
    for way in s.ways():
        x, side = way.inputs(5), s.side(5)
        y, ladj = way.call(x, side)
        _same(s, f"{way.name} of one row", way.call(x[2], s.row(side, 2)), (y[2], ladj[2]))
        x[1] = torch.nan
        bad, bad_ladj = way.call(x, side)
        require(bool(bad[1].isnan().any()), f"{way.name} hides a NaN row: {bad[1].tolist()}")
        keep = torch.tensor([0, 2, 3, 4])
        _same(s, f"{way.name} beside a NaN row", (bad[keep], bad_ladj[keep]), (y[keep], ladj[keep]))


@law
def vmaps(s: Subject) -> None:
    """``torch.func.vmap`` over rows equals the batch."""
    for way in s.ways():
        x, side = way.inputs(5), s.side(5)
        got = vmap(way.call, (0, None if side is None else s.side_dim))(x, side)
        _same(s, f"vmap of {way.name}", got, way.call(x, side))


@law
def double_backward(s: Subject) -> None:
    """Second derivatives with respect to ``x`` and the second argument agree with differences of the first."""
    for way in s.ways():
        leaves = detached(way.inputs(2), s.side(2))

        def score(*args: Tensor, way: Way = way) -> Tensor:
            y, ladj = way.call(args[0], args[1] if len(args) > 1 else None)
            return y.sin().sum() + ladj.sin().sum() + args[0].square().sum()

        ok = torch.autograd.gradgradcheck(score, leaves, atol=1e-4, rtol=1e-3, fast_mode=True, raise_exception=False)
        require(ok, f"second derivatives of {way.name} differ from differences of its first")


@law
def captures(s: Subject) -> None:
    """``torch.compile(fullgraph=True)`` takes the whole call and gives the same numbers."""
    for way in s.ways():
        x, side = way.inputs(7), s.side(7)
        want = way.call(x, side)
        torch._dynamo.reset()
        got = torch.compile(way.call, backend="eager", fullgraph=True, dynamic=False)(x, side)
        _same(s, f"captured {way.name}", got, want)


@law
def dtypes(s: Subject) -> None:
    """Results have the dtype of the input, and agree with the same map in float64."""
    wide = s.in_dtype(torch.float64)
    for way, ref in zip(s.ways(), wide.ways(), strict=True):
        x, side = way.inputs(64), s.side(64)
        y, ladj = way.call(x, side)
        require(y.dtype == s.dtype and ladj.dtype == s.dtype, f"{way.name} of {s.dtype} is {y.dtype}, {ladj.dtype}")
        want = ref.call(x.double(), None if side is None else side.double())
        require_close(f"{way.name} against float64", y.double(), want[0], s.tolerance.round_trip)
        require_close(f"ladj of {way.name} against float64", ladj.double(), want[1], s.tolerance.ladj)


@law
def devices(s: Subject) -> None:
    """Results live on the device of the input: shown on the meta device, where a tensor from elsewhere cannot mix in."""
    built = s.trained()
    built = built.to("meta") if isinstance(built, torch.nn.Module) else built
    for way in s.ways(built):
        x, side = way.inputs(7).to("meta"), s.side(7)
        y, ladj = way.call(x, None if side is None else side.to("meta"))
        require(y.is_meta and ladj.is_meta, f"{way.name} of a meta tensor is on {y.device}, {ladj.device}")


@law
def deterministic(s: Subject) -> None:
    """The same call twice gives the same bits; so do a pickled and a deep copy."""
    built = s.trained()
    for copied in (built, copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        for way, other in zip(s.ways(built), s.ways(copied), strict=True):
            x, side = way.inputs(7), s.side(7)
            for a, b in zip(way.call(x, side), other.call(x, side), strict=True):
                require(torch.equal(a, b), f"{way.name} of a copy, or called twice, gives other bits")


@law
def extremes(s: Subject) -> None:
    """At inputs of ``1e4 ... 1e6``: never NaN, and back within a relative error, unless the map saturates."""
    for way in s.ways():
        x, side = way.inputs(len(EXTREMES)), s.side(len(EXTREMES))
        size = torch.tensor(EXTREMES).view(-1, *(1,) * (x.dim() - 1))
        shape = s.event_shape if way.name == "forward" else s.latent_shape()
        fit = s.domain if way.name == "forward" else s.range
        size = size if fit is unchanged else size.clamp(-30, 30)  # inside a half-line or an interval, not on its rim
        x = fit(size.double() * s.noise(len(EXTREMES), *shape).abs().clamp(0.1, 1)).to(s.dtype)
        y, ladj = way.call(x, side)
        require(not bool(y.isnan().any() | ladj.isnan().any()), f"{way.name} of extreme inputs has NaN")
        if s.saturates:
            continue
        require(bool(y.isfinite().all()), f"{way.name} of {EXTREMES} overflows")
        back = way.back(y, side)[0]
        scale = 1 + torch.maximum(_largest(x), _largest(y) if y.shape == x.shape else _largest(x))
        require_close(f"{way.name} and back at extremes", back, x, s.tolerance.extreme, scale.expand(x.shape))


def _wobble(s: Subject, way: Way, y: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor]:
    """How far the way back moves, in float64, when ``y`` moves by 32 roundings: what an ill-conditioned point may cost."""
    wide, other = s.in_dtype(torch.float64), "inverse" if way.name == "forward" else "forward"
    back = getattr(wide.trained(), other)
    y, side = y.detach().double(), None if side is None else side.double()
    size = 32 * torch.finfo(s.dtype).eps * (1 + y.abs())
    x, ladj = back(y, side)
    moved = [back(y + size * wide.noise(*y.shape, salt=k).sign(), side) for k in (11, 12, 13)]
    dx, dl = (torch.stack([(m[i] - (x, ladj)[i]).abs() for m in moved]).amax(0) for i in (0, 1))
    dx, dl = dx.nan_to_num(nan=0.0, posinf=0.0), dl.nan_to_num(nan=0.0, posinf=0.0)
    return (dx.amax(tuple(range(dl.dim(), dx.dim())), keepdim=True) if dx.dim() > dl.dim() else dx).to(s.dtype), dl.to(
        s.dtype
    )


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(tuple(range(1, x.dim())), keepdim=True)


def _state(built: object) -> dict[str, Tensor]:
    if not isinstance(built, torch.nn.Module):
        return {}
    return {**dict(built.named_parameters()), **dict(built.named_buffers())}


def _same(s: Subject, what: str, got: tuple[Tensor, ...], want: tuple[Tensor, ...] | list[Tensor]) -> None:
    for name, a, b in zip(("", "ladj of "), got, want, strict=True):
        require_close(name + what, a, b, s.tolerance.same)


MAP_LAWS: tuple[Law, ...] = (
    round_trip,
    ladj_opposite,
    inputs_untouched,
    batch_shapes,
    rows_are_independent,
    vmaps,
    dtypes,
    devices,
    deterministic,
    extremes,
)
"""Laws that run in every dtype."""

COSTLY_MAP_LAWS: tuple[Law, ...] = (double_backward, captures)
"""Laws that are slow, or that need float64; run once."""
