r"""The measurements behind ``Flow.check``.

Round trips and the log-determinant are measured in the precision of the flow; what concerns the density as a whole (mass,
agreement of draws and density) in a float64 copy, so that the statistics and not the rounding decide. Points to integrate
over come from a ``Proposal`` :math:`r` fitted to data and draws:

* mass: :math:`E_r[p/r] = \int p = 1`, with its standard error; no verdict where the effective sample size is small;
* draws against density: :math:`E_p[h\, r/(p + r)] = E_r[h\, p/(p + r)]` for some bounded functions :math:`h`, the identity
  of bridge sampling. Its weights lie in [0, 1], so that it stays measurable in more dimensions than :math:`E_p[r/p] = 1`.

References:
    Meng and Wong 1996, Simulating ratios of normalizing constants via a simple identity, Statistica Sinica 6, eq. 2.2.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jacrev

from bijectory.densities.audit import INFO, UNKNOWN, Audit, Row, at_least, at_most
from bijectory.densities.proposal import Proposal
from bijectory.densities.validate import check_batches, check_context, check_events
from bijectory.errors import ContextError, NonFiniteError, ShapeError, check
from bijectory.transforms import Chain, Inverse, Transform

if TYPE_CHECKING:
    from bijectory.densities.flow import Flow

ROWS = 1024
DRAWS = 8192
WAVES = 8
JACOBIANS = 8
LAYER_ROWS = 256
OFF_SCALE = 1e3
LARGEST = 512  # features, above which neither Jacobians nor masses can be measured
FEW_ROWS, FEW_DRAWS = 64, 256  # of large events and of images, which are costly
P_VALUE = 1e-4
SIGMAS = 4.5


def audit(flow: "Flow", x: Tensor, c: Tensor | None = None, *, seed: int = 0) -> Audit:
    """Measure whether a flow is what it claims to be; see ``Flow.check``."""
    flow = copy.deepcopy(flow).eval().requires_grad_(requires_grad=False)
    rows = [_finite_parameters(flow)]
    if rows[0].value > 0:
        return Audit(tuple(rows))
    g = torch.Generator(x.device).manual_seed(seed)
    x, c = _pick(flow, x, c, g)
    with torch.no_grad():
        z = (
            flow.base.sample((), _embedded(flow, c), generator=g)
            if flow.context
            else flow.base.sample(len(x), generator=g)
        )
        rows += _round_trips(flow, x, z, c)
        few = slice(0, LAYER_ROWS)
        rows.append(_worst_layer(flow, x[few], z[few], None if c is None else c[few]))
        rows.append(_log_det(flow, x, c))
        rows += _context(flow, x, c)
        wide = flow.double()
        x, z, c = x.double(), z.double(), _wide(c)
        rows += [*_statistics(wide, x, None if c is None else c[0], g), *_latents(wide, x, z, c, g)]
    return Audit(tuple(rows))


def _pick(flow: "Flow", x: Tensor, c: Tensor | None, g: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """At most ``ROWS`` rows of the data, each with its context."""
    check_events(flow, x, flow.event_shape, "x")
    batch = x.shape[: x.dim() - len(flow.event_shape)]
    if flow.embed is None:
        check_context(flow, c, flow.context)
        check_batches(x, c, len(flow.event_shape))
        if c is not None:
            batch = torch.broadcast_shapes(batch, c.shape[:-1])
            c = c.expand(*batch, c.shape[-1]).reshape(-1, c.shape[-1])
    else:
        rows = None if c is None else len(c)
        check(rows in (None, *batch[:1]), ContextError, f"with embed, check needs one context a row; got {rows}.")
    x = x.expand(*batch, *flow.event_shape).reshape(-1, *flow.event_shape).detach()
    check(len(x) >= 2, ShapeError, f"check needs at least 2 rows of data, got {len(x)}; pass held-out rows.")
    bad = (~x.flatten(1).isfinite()).any(1).nonzero()
    check(len(bad) == 0, NonFiniteError, f"x has {len(bad)} non-finite rows; drop or repair them.")
    chosen = torch.randperm(len(x), generator=g, device=x.device)[: FEW_ROWS if _large(flow) else ROWS]
    return x[chosen], None if c is None else c[chosen].detach()


def _large(flow: "Flow") -> bool:
    return len(flow.event_shape) > 1 or flow.event_shape.numel() > LARGEST


def _embedded(flow: "Flow", c: Tensor | None) -> Tensor | None:
    return c if c is None or flow.embed is None else flow.embed(c)


def _wide(c: Tensor | None) -> Tensor | None:
    return c.double() if c is not None and c.is_floating_point() else c


def _bound(dtype: torch.dtype) -> float:
    return 1e-8 if dtype == torch.float64 else 1e-3


def _finite_parameters(flow: "Flow") -> Row:
    tensors = [*flow.named_parameters(), *flow.named_buffers()]
    bad = {n: int((~t.isfinite()).sum()) for n, t in tensors if t.is_floating_point()}
    worst = max(bad, key=bad.__getitem__, default="")
    total = sum(bad.values())
    return at_most("non-finite parameters", total, 0, f"most in {worst}" if total else "")


def _errors(got: Tensor, want: Tensor) -> Tensor:
    """Error of each row, in units of each feature's spread (not finer than rounding allows): ``(rows,)``."""
    slack = 100 * torch.finfo(want.dtype).eps / _bound(want.dtype)
    want, got = want.flatten(1).double(), got.flatten(1).double()
    scale = want.std(0) + slack * want.abs().amax(0) + torch.finfo(torch.float32).tiny
    return ((got - want).abs() / scale).amax(1).nan_to_num(nan=math.inf)


def _round_trips(flow: "Flow", x: Tensor, z: Tensor, c: Tensor | None) -> Iterator[Row]:
    bound = _bound(x.dtype)
    there, ladj = flow.to_latent(x, c)
    back, back_ladj = flow.to_data(there, c)
    for name, error in (
        ("round trip of data", _errors(back, x)),
        ("round trip of latents", _errors(flow.to_latent(flow.to_data(z, c)[0], c)[0], z)),
    ):
        yield at_most(
            name,
            float(error.max()),
            bound,
            f"median {float(error.median()):.1e}, 99 % {float(error.quantile(0.99)):.1e}",
        )
    error = ((ladj + back_ladj).abs() / (1 + ladj.abs())).nan_to_num(nan=math.inf)
    yield at_most("log-det of both directions", float(error.max()), bound, f"row {int(error.argmax())}")


def layers(transform: Transform) -> Iterator[Transform]:
    """The layers of a transform in data -> latent order: chains, and inverses of chains, are opened."""
    if isinstance(transform, Chain):
        for t in transform:
            yield from layers(t)
    elif isinstance(transform, Inverse) and isinstance(transform.transform, Chain):
        for t in reversed(list(layers(transform.transform))):
            yield Inverse(t)
    else:
        yield transform


def _worst_layer(flow: "Flow", x: Tensor, z: Tensor, c: Tensor | None) -> Row:
    """The layer at which the way there and back breaks, from either end; else the one that loses most by itself."""
    c, bound = _embedded(flow, c), _bound(x.dtype)
    steps = list(layers(flow.transform))
    back = [Inverse(t) for t in reversed(steps)]
    data, latent = _breaking_layer(steps, x, c, bound), _breaking_layer(back, z, c, bound)
    if data is not None:
        k, error = data
    elif latent is not None:
        k, error = len(steps) - 1 - latent[0], latent[1]
    else:
        k, error = max(enumerate(_alone(steps, x, c)), key=lambda item: item[1], default=(-1, 0.0))
    name = type(steps[k]).__name__ if steps else "no layer"
    return at_most("round trip of the worst layer", error, bound, f"layer {k} of {len(steps)}, {name}")


def _breaking_layer(steps: Sequence[Transform], x: Tensor, c: Tensor | None, bound: float) -> tuple[int, float] | None:
    """The first ``k`` such that layers ``0 ... k`` and back lose the points, with the error; None if none does.

    Not the layer with the largest error of its own: that is often a later one, fed with rubbish. So also where layer ``k``
    got points far off scale: then the earlier layer that blew them up most is named.
    """
    sizes, y = [float(x.abs().max())], x
    for k, t in enumerate(steps):
        y, _ = t.forward(y, c)
        back = y
        for s in reversed(steps[: k + 1]):
            back, _ = s.inverse(back, c)
        if (error := float(_errors(back, x).max())) > bound:
            growth = [b / max(a, 1.0) for a, b in itertools.pairwise(sizes)]
            blown = sizes[-1] > OFF_SCALE * max(sizes[0], 1.0)
            return growth.index(max(growth)) if blown else k, error
        sizes.append(float(y.abs().max()))
    return None


def _alone(steps: list[Transform], x: Tensor, c: Tensor | None) -> Iterator[float]:
    """The error of each layer there and back by itself, at the points that reach it."""
    for t in steps:
        y, _ = t.forward(x, c)
        yield float(_errors(t.inverse(y, c)[0], x).max())
        x = y


def _log_det(flow: "Flow", x: Tensor, c: Tensor | None) -> Row:
    """The log-determinant in the flow's precision against autodiff in float64."""
    name = "log-det against autodiff"
    if not flow.transform.exact:
        return Row(name, math.nan, None, UNKNOWN, "the log-det of this flow is an estimate")
    if x[0].numel() > LARGEST:
        return Row(name, math.nan, None, UNKNOWN, f"more than {LARGEST} features")
    x, c = x[:JACOBIANS], None if c is None else c[:JACOBIANS]
    ladj = flow.to_latent(x, c)[1].double()
    wide, cw = copy.deepcopy(flow).double(), _wide(c)

    def latent(v: Tensor, k: int) -> Tensor:
        return wide.to_latent(v, None if cw is None else cw[k])[0].flatten()

    jac = [jacrev(lambda v, k=k: latent(v, k))(x[k].double()).flatten(1) for k in range(len(x))]
    want = torch.linalg.slogdet(torch.stack(jac)).logabsdet
    error = ((ladj - want).abs() / (1 + want.abs())).nan_to_num(nan=math.inf)
    return at_most(name, float(error.max()), _bound(x.dtype), f"on {len(x)} rows")


def _context(flow: "Flow", x: Tensor, c: Tensor | None) -> Iterator[Row]:
    """Every context dimension must move the log-density."""
    if c is None or not flow.context:
        return
    if not c.is_floating_point():
        yield Row("context dimensions without effect", math.nan, None, UNKNOWN, "the context is discrete")
        return
    leaf = c.clone().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(flow.log_prob(x, leaf).sum(), leaf, allow_unused=True)
    reach = torch.zeros(c.shape[-1]) if g is None else g.abs().reshape(-1, c.shape[-1]).amax(0)
    blind = (~(reach > 0)).nonzero().flatten().tolist()
    yield at_most("context dimensions without effect", len(blind), 0, f"{blind}" if blind else "")


def _log_prob(flow: "Flow", x: Tensor, c: Tensor | None) -> Tensor:
    """Log-density of flat rows; NaN (outside the domain of the flow) counts as no density."""
    return flow.log_prob(x.reshape(-1, *flow.event_shape), c).nan_to_num(
        nan=-math.inf, posinf=math.inf, neginf=-math.inf
    )


def _statistics(flow: "Flow", x: Tensor, c: Tensor | None, g: torch.Generator) -> Iterator[Row]:
    """Mass, and agreement of draws with the density; with context, at one context."""
    draws = flow.sample(FEW_DRAWS if _large(flow) else DRAWS, c, generator=g).flatten(1)
    lost = ~(draws.isfinite().all(1) & _log_prob(flow, draws, c).isfinite())
    yield at_most("draws without a finite density", float(lost.double().mean()), 0)
    if lost.any():
        return
    if _large(flow):
        yield Row("mass minus one", math.nan, None, UNKNOWN, f"not measured for images or more than {LARGEST} features")
        return
    if flow.surface:
        note = "the density is with respect to the area of a surface"
        yield Row("mass minus one", math.nan, None, UNKNOWN, note)
        return
    around = draws[: DRAWS // 8] if flow.context else torch.cat([x.flatten(1), draws[: len(x)]])
    r = Proposal.fit(around)
    points = r.sample(DRAWS, g)
    log_w = _log_prob(flow, points, c) - r.log_prob(points)
    fresh = draws[DRAWS // 8 :]
    log_v = _log_prob(flow, fresh, c) - r.log_prob(fresh)
    yield _mass(log_w, float((log_v > log_w.max()).double().mean()))
    yield _draws_against_density(r.whiten(fresh), torch.sigmoid(-log_v), r.whiten(points), torch.sigmoid(log_w), g)


def _draws_against_density(u: Tensor, a: Tensor, v: Tensor, b: Tensor, g: torch.Generator) -> Row:
    """``E_p[h r/(p + r)] = E_r[h p/(p + r)]`` for ``h`` = 1, random waves, and functions of the radius."""
    name, overlap = "draws against density (sigmas)", float(torch.minimum(a.mean(), b.mean()))
    if overlap < 0.01 and abs(float(a.mean() - b.mean())) < 0.01:
        return Row(name, math.nan, None, UNKNOWN, f"overlap with the proposal {overlap:.1e}")
    n = u.shape[1]
    wave = torch.randn(n, WAVES, generator=g, dtype=u.dtype, device=u.device) / math.sqrt(n)
    left, right = (
        w.unsqueeze(-1) * torch.cat([torch.ones_like(t[:, :1]), (t @ wave).cos(), (t @ wave).sin(), _radial(t)], 1)
        for t, w in ((u, a), (v, b))
    )
    error = (left.var(0) / len(left) + right.var(0) / len(right)).sqrt()
    sigmas = float(((left.mean(0) - right.mean(0)).abs() / error).max())
    return at_most(name, sigmas, SIGMAS, f"overlap {float(a.mean()):.3f} and {float(b.mean()):.3f}")


def _radial(u: Tensor) -> Tensor:
    radius = u.square().mean(1, keepdim=True)
    return torch.cat([(-radius / s).exp() for s in (0.5, 1.0, 2.0)], 1)


def _mass(log_w: Tensor, missed: float) -> Row:
    """Importance integral; ``missed`` is the share of draws in places that no point of the proposal came near."""
    w = log_w.exp()
    mass, error = float(w.mean()), float(w.std() / len(w) ** 0.5)
    ess = float(w.sum().square() / w.square().sum())
    note = f"mass {mass:.3f} +- {error:.3f}, effective sample size {ess:.0f}"
    if not (ess >= 200 and error <= 0.1 and missed <= 0.01):
        return Row("mass minus one", abs(mass - 1), None, UNKNOWN, note)
    return at_most("mass minus one", abs(mass - 1), SIGMAS * error + 1e-3, note)


def _latents(flow: "Flow", x: Tensor, z: Tensor, c: Tensor | None, g: torch.Generator) -> Iterator[Row]:
    """Kolmogorov-Smirnov per latent dimension against draws of the base; of data it tells the fit, of draws the code."""
    cz = _embedded(flow, c)
    base = flow.base.sample(() if flow.context else len(x), cz, generator=g).flatten(1)
    drawn = flow.to_latent(flow.to_data(z, c)[0], c)[0].flatten(1)
    p, dim = _smallest_p(drawn, base)
    yield at_least("KS of the latents of draws (p, at least)", p, P_VALUE, f"dimension {dim}")
    p, dim = _smallest_p(flow.to_latent(x, c)[0].flatten(1), base)
    yield Row("KS of the latents of the data (p)", p, None, INFO, f"dimension {dim}; small: the fit can be improved")


def _smallest_p(a: Tensor, b: Tensor) -> tuple[float, int]:
    """Smallest two-sample p-value over dimensions, Bonferroni-corrected, and its dimension."""
    if not bool(a.isfinite().all()):
        return math.nan, int((~a.isfinite()).any(0).double().argmax())
    both = torch.cat([a, b])
    order = both.sort(0).indices
    step = torch.where(order < len(a), 1 / len(a), -1 / len(b))
    gap = step.cumsum(0).abs()
    last = torch.cat([both.gather(0, order).diff(dim=0) > 0, torch.ones_like(gap[:1], dtype=torch.bool)])
    distance = torch.where(last, gap, 0.0).amax(0)  # ties: the steps of equal values count together
    dim = int(distance.argmax())
    lam = float(distance[dim]) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * lam) ** 2) for k in range(1, 101)) if lam > 0.2 else 1.0
    return min(1.0, max(p, 0.0) * a.shape[1]), dim
