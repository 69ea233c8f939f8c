"""Laws of densities: bases, targets and flows."""

import copy
import math
import pickle

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from bijectory.densities import Density, Flow
from bijectory.densities.proposal import Proposal
from bijectory.errors import FlowError
from bijectory.testing.maps import BATCHES, EXTREMES
from bijectory.testing.subject import Subject, detached, unchanged
from bijectory.testing.transforms import require_gradients
from bijectory.testing.violation import Law, law, require, require_close


def points(s: Subject, built: Density, *batch: int) -> tuple[Tensor, Tensor | None]:
    """Rows of the density's own support with a context for each: draws, slightly moved where the support allows it."""
    c = s.side(*batch)
    g = torch.Generator().manual_seed(s.seed + 7)
    x = built.sample(() if c is not None else batch, c, generator=g)
    return x.detach(), c


@law
def shapes(s: Subject) -> None:
    """``log_prob`` is ``(*batch,)``; draws are ``(*shape, *batch of c, *event)``, none drawn included."""
    p = s.trained()
    for batch in BATCHES:
        x, c = points(s, p, *batch)
        require(x.shape == (*batch, *s.event_shape), f"a draw for batch {batch} has shape {tuple(x.shape)}")
        require(
            p.log_prob(x, c).shape == torch.Size(batch), f"log_prob for batch {batch}: {tuple(p.log_prob(x, c).shape)}"
        )
        require(torch.equal(p(x, c), p.log_prob(x, c)), "forward differs from log_prob")
        for shape, lead in ((0, (0,)), (2, (2,)), ((2, 3), (2, 3))):
            got, rows = p.sample(shape, c).shape, batch if s.context else ()
            require(got == (*lead, *rows, *s.event_shape), f"sample({shape}) for contexts {rows}: {tuple(got)}")
    require(tuple(p.event_shape) == tuple(s.event_shape), f"event_shape is {tuple(p.event_shape)}")


@law
def density_rows_are_independent(s: Subject) -> None:
    """The log-density of a row does not depend on its neighbours; a NaN row gives NaN, and only there."""
    p = s.trained()
    x, c = points(s, p, 5)
    before = x.clone()
    want = p.log_prob(x, c)
    require(torch.equal(x, before), "log_prob changes its input")
    require_close("log_prob of one row", p.log_prob(x[2], s.row(c, 2)), want[2], s.tolerance.same)
    two = x.reshape(5, 1, *s.event_shape), None if c is None else c.unsqueeze(1)
    require_close("log_prob of (5, 1) rows", p.log_prob(*two).squeeze(1), want, s.tolerance.same)
    for column in range(math.prod(s.event_shape)):
        x[1] = before[1]
        x[1].view(-1)[column] = torch.nan
        got = p.log_prob(x, c)
        require(bool(got[1].isnan()), f"NaN in column {column} gives log_prob {got[1].item():.4g}")
        keep = torch.tensor([0, 2, 3, 4])
        require_close("log_prob beside a NaN row", got[keep], want[keep], s.tolerance.same)


@law
def density_context_broadcasts(s: Subject) -> None:
    """5 draws x 7 contexts, in ``log_prob`` as in ``sample``; every context dimension matters."""
    if not s.context:
        return
    p = s.trained()
    x = points(s, p, 5, 7)[0]
    for batch in ((), (1,), (7,), (5, 7), (5, 1)):
        c = s.side(*batch)
        want = p.log_prob(x, c.expand(5, 7, s.context))  # type: ignore[union-attr]
        require_close(f"log_prob of (5, 7) rows with context {batch}", p.log_prob(x, c), want, s.tolerance.same)
    c = s.side(7)
    require(p.log_prob(x[0, 0], c).shape == (7,), "one row with 7 contexts does not give 7 log-densities")
    (leaf,) = detached(c)
    (g,) = torch.autograd.grad(p.log_prob(x, leaf).sum(), leaf)
    blind = [k for k in range(s.context) if not g[:, k].any()]
    require(not blind, f"log_prob is blind to the context dimensions {blind}")


@law
def draws_reproduce(s: Subject) -> None:
    """A generator fixes the draws and leaves the global one alone; ``sample`` carries no gradient."""
    p, c = s.trained(), s.side(3)
    rng = torch.get_rng_state()
    a, b, other = (p.sample(4, c, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    require(torch.equal(torch.get_rng_state(), rng), "sampling with a generator draws from the global one")
    require(torch.equal(a, b), "one seed gives two results")
    require(not torch.equal(a, other), "two seeds give one result")
    require(a.dtype == s.dtype, f"draws are {a.dtype}, the density is {s.dtype}")
    require(not a.requires_grad, "sample carries gradients")
    require(not torch.equal(a[0], a[1]), "draws repeat each other")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = p.sample(4, c)
        torch.manual_seed(5)
        require(torch.equal(first, p.sample(4, c)), "the global seed does not fix the draws")


@law
def joint_draw(s: Subject) -> None:
    """``rsample_and_log_prob`` equals ``rsample`` followed by ``log_prob``."""
    if not s.reparameterised:
        return
    p, c = s.trained(), s.side(7)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    x, logp = p.rsample_and_log_prob(5, c, generator=seeds[0])
    require_close("the draw", x, p.rsample(5, c, generator=seeds[1]), s.tolerance.same)
    require_close("its log_prob", logp, p.log_prob(x, c), s.tolerance.ladj)


@law
def density_gradients(s: Subject) -> None:
    """``log_prob`` and ``rsample`` send finite, non-zero gradients to every parameter; ``grad`` equals autograd."""
    p = s.trained()
    x, c = points(s, p, 64)
    p.zero_grad()
    if (loss := p.log_prob(x, c).sum()).requires_grad:
        loss.backward()
    require_gradients(s, p, "log_prob")
    (leaf,) = detached(x)
    (want,) = torch.autograd.grad(p.log_prob(leaf, c).sum(), leaf)
    require(bool(want.isfinite().all()), "the score (gradient of log_prob in x) is not finite")
    one = grad(p.log_prob)
    got = vmap(lambda v: one(v, None))(x) if c is None else vmap(one)(x, c)
    require_close("vmap(grad(log_prob))", got, want, 10 * s.tolerance.ladj)  # a derivative loses a digit
    if s.reparameterised:
        p.zero_grad()
        y = p.rsample(() if c is not None else (64,), c, generator=torch.Generator().manual_seed(1))
        if (loss := y.sin().sum()).requires_grad:
            loss.backward()
        require_gradients(s, p, "rsample")


@law
def density_copies(s: Subject) -> None:
    """``state_dict`` in a fresh build, pickle and deepcopy give the same bits."""
    p = s.trained()
    fresh = s.fresh(s.seed + 1)
    fresh.load_state_dict(p.state_dict())
    x, c = points(s, p, 7)
    want = p.log_prob(x, c)
    for how, q in (("state_dict", fresh), ("pickle", pickle.loads(pickle.dumps(p))), ("deepcopy", copy.deepcopy(p))):
        require(torch.equal(q.log_prob(x, c), want), f"log_prob after {how} differs")
        a, b = (d.sample(3, c, generator=torch.Generator().manual_seed(1)) for d in (p, q))
        require(torch.equal(a, b), f"draws after {how} differ")


@law
def density_dtypes(s: Subject) -> None:
    """The log-density has the dtype of the input, and agrees with float64."""
    p, wide = s.trained(), s.in_dtype(torch.float64).trained()
    x, c = points(s, p, 64)
    got = p.log_prob(x, c)
    require(got.dtype == s.dtype, f"log_prob of {s.dtype} is {got.dtype}")
    want = wide.log_prob(x.double(), None if c is None else c.double())
    require_close("log_prob against float64", got.double(), want, s.tolerance.ladj)


@law
def density_extremes(s: Subject) -> None:
    """At ``1e4 ... 1e6`` the log-density is finite or -inf: never NaN, never large; on the rim of a domain, not NaN."""
    p = s.trained()
    whole = s.domain is unchanged
    rows = torch.tensor(EXTREMES, dtype=torch.float64).view(-1, *(1,) * len(s.event_shape))
    rows = rows if whole else rows.clamp(-30, 30)
    x = s.domain(rows * s.noise(len(EXTREMES), *s.event_shape).abs().clamp(0.1, 1)).to(s.dtype)
    got = p.log_prob(x, s.side(len(EXTREMES)))
    require(not bool(got.isnan().any()), f"log_prob of extreme rows has NaN: {got.tolist()}")
    require(not whole or bool((got < 0).all()), f"log_prob far out is not small: {got.tolist()}")


def _weighted(s: Subject) -> tuple[Density, Tensor, Tensor, Tensor]:
    """Draws of the density, and points of a proposal with their weights ``p/r``: ``E_r[w h] = E_p[h]``."""
    wide = s.in_dtype(torch.float64)
    p, c = wide.trained(), wide.side()
    n = math.prod(s.event_shape)
    g = torch.Generator().manual_seed(s.seed + 1)
    draws = p.sample(20_000, c, generator=g).reshape(-1, n)
    require(p.surface == (s.chart is not None), "a density on a surface, and no other, needs a chart to be measured")
    draws = draws if s.chart is None else s.chart.flat(draws)
    proposal = Proposal.fit(draws[:4096])
    x = proposal.sample(40_000, g)
    with torch.no_grad():
        rows, area = (x, 0.0) if s.chart is None else s.chart.rows(x)
        rows = rows.reshape(-1, *s.event_shape)
        log_p = p.log_prob(rows, c) + area
        log_r = torch.cat([proposal.log_prob(piece) for piece in x.split(1000)])  # of a size for the cache: 4 x faster
        w = (torch.where(log_p.isnan() & ~s.support(rows), -torch.inf, log_p) - log_r).exp()
    return p, draws, x, w


@law
def integrates_to_one(s: Subject) -> None:
    """The density has mass one: on a grid for one feature, by importance sampling around its draws.

    A bound (``exact = False``) has less.
    """
    if not s.trained().exact:
        return
    p, draws, _, w = _weighted(s)
    mass, error = float(w.mean()), float(w.std() / len(w) ** 0.5)
    ess = float(w.sum().square() / w.square().sum())
    require(ess >= 500 and error < 0.05, f"the mass is not measurable: {mass:.4g} +- {error:.2g}, ESS {ess:.0f}")
    require(abs(mass - 1) <= 4 * error, f"mass {mass:.4g} +- {error:.2g}", measured=abs(mass - 1), bound=4 * error)
    if draws.shape[1] == 1:
        low, high = (float(draws.quantile(q)) for q in (0.05, 0.95))
        middle = torch.linspace(low, high, 40_001, dtype=torch.float64)
        with torch.no_grad():
            logp = p.log_prob(middle.reshape(-1, *s.event_shape), s.in_dtype(torch.float64).side())
        inside = float(torch.trapezoid(logp.exp(), middle))
        require(abs(inside - 0.9) < 0.01, f"the middle 90 % of draws has mass {inside:.4g}")


@law
def draws_follow_the_density(s: Subject) -> None:
    """Draws have the moments that the density, if it is exact, gives them: ``E[cos(a x + b)]`` at random frequencies."""
    if not s.trained().exact:
        return
    _, draws, x, w = _weighted(s)
    g = torch.Generator().manual_seed(9)
    scale = (draws.quantile(0.84, 0) - draws.quantile(0.16, 0)) / 2
    a = torch.randn(16, draws.shape[1], generator=g, dtype=torch.float64) / scale
    b = 6.283 * torch.rand(16, generator=g, dtype=torch.float64)
    h, k = (torch.cos(v @ a.T + b) for v in (draws, x))
    k = k * w.unsqueeze(-1)
    error = (h.var(0) / len(h) + k.var(0) / len(k)).sqrt()
    z = ((h.mean(0) - k.mean(0)) / error).abs()
    worst = int(z.argmax())
    require(bool(error.max() < 0.05), "the moments are not measurable by importance sampling")
    require(
        float(z.max()) <= 4.5,
        f"moment {worst} of the draws is {float(h.mean(0)[worst]):.4g}, of the density {float(k.mean(0)[worst]):.4g}",
        measured=float(z.max()),
        bound=4.5,
    )


@law
def density_captures(s: Subject) -> None:
    """``torch.compile(fullgraph=True)`` takes ``log_prob`` whole and gives the same numbers."""
    p = s.trained()
    x, c = points(s, p, 7)
    torch._dynamo.reset()
    got = torch.compile(p, backend="eager", fullgraph=True, dynamic=False)(x, c)
    require_close("captured log_prob", got, p.log_prob(x, c), s.tolerance.same)


@law
def density_exports(s: Subject) -> None:
    """``torch.export`` takes ``log_prob`` with a free number of rows."""
    p = s.trained()
    _exports(s, "log_prob", p, *points(s, p, 7))


@law
def to_data_exports(s: Subject) -> None:
    """``torch.export`` takes ``to_data`` of a flow with a free number of rows."""
    p = s.trained()
    if isinstance(p, Flow):
        x, c = points(s, p, 7)
        _exports(s, "to_data", _ToData(p), p.to_latent(x, c)[0].detach(), c)


def _exports(s: Subject, name: str, module: nn.Module, x: Tensor, c: Tensor | None) -> None:
    rows, args = torch.export.Dim("rows", min=2), (x,) if c is None else (x, c)
    try:
        program = torch.export.export(module, args, dynamic_shapes=tuple({0: rows} for _ in args), strict=False)
    except FlowError as refusal:  # where torch would make a wrong program of it
        require("torch.export takes" in str(refusal), str(refusal))
        return
    more = tuple(torch.cat([a.flip(0), a]) for a in args)  # other rows than it was made with, and more of them
    require_close(f"exported {name}", program.module()(*more), module(*more), s.tolerance.same)


class _ToData(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.flow.to_data(z, c)[0]


@law
def density_double_backward(s: Subject) -> None:
    """Second derivatives of ``log_prob`` agree with differences of the first."""
    p = s.trained()
    x, c = points(s, p, 2)

    def score(*args: Tensor) -> Tensor:
        return p.log_prob(args[0], args[1] if len(args) > 1 else None).sum() + args[0].square().sum()

    ok = torch.autograd.gradgradcheck(
        score, detached(x, c), atol=1e-4, rtol=1e-3, fast_mode=True, raise_exception=False
    )
    require(ok, "second derivatives of log_prob differ from differences of its first")


DENSITY_LAWS: tuple[Law, ...] = (
    shapes,
    density_rows_are_independent,
    density_context_broadcasts,
    draws_reproduce,
    joint_draw,
    density_gradients,
    density_copies,
    density_dtypes,
    density_extremes,
)
"""Laws that run in every dtype."""

COSTLY_DENSITY_LAWS: tuple[Law, ...] = (
    integrates_to_one,
    draws_follow_the_density,
    density_double_backward,
    density_captures,
    density_exports,
    to_data_exports,
)
"""Laws that are slow, or that need float64; run once."""
