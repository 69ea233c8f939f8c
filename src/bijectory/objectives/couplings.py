r"""Which draw of the base goes with which row of data.

Flow matching may pair them by any *coupling*, a joint distribution with the right marginals: the marginal field of the
pairs carries the base to the data whatever the coupling. Near pairs have paths that cross less, so the field is
straighter and its equation is solved in fewer steps, and the regression has less variance. The exact optimal coupling of
the two distributions has straight lines; of a batch, it is an approximation that gets better with ``block``, the rows that
are paired among themselves, at a cost between :math:`O(n^2)` and :math:`O(n^3)`.

A context must not choose its noise: given ``c``, the noise must still be distributed as the base. Pairing rows across
different contexts breaks this, so the cost of doing so is added to that of the distance,
:math:`\|x_i - e_j\|^2 + w \|c_i - c_j\|^2`, and the error that is left vanishes with larger weights and blocks.

Weights of rows: ``Independent`` and ``Paired`` leave them to the loss, ``SchrodingerBridge`` has them as the marginal of its
plan; the assignments resample rows in proportion to their weights, then all count the same.

References:
    Tong+ 2023, arXiv:2302.00482. Multisample Flow Matching, Pooladian+ 2023, arXiv:2304.14772.
    Dynamic Conditional Optimal Transport through Simulation-Free Flows, Kerrigan+ 2024, arXiv:2404.04240.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ContextError, check
from bijectory.objectives.paths import squared_distances
from bijectory.ops.sinkhorn import sinkhorn

Cost = Callable[[Tensor, Tensor], Tensor]
BLOCK = 128  # with the network of cfm, a step costs about twice one with independent pairs; with 256 four times


class Pairs(NamedTuple):
    """Rows of data with their draws of the base.

    Attributes:
        x: Data ``(n, *event)``.
        e: Draws ``(n, *event)``.
        c: Contexts ``(n, *context)`` of the rows of ``x``, or None.
        weight: ``(n,)`` or None.

    Example:
        >>> Pairs(torch.zeros(3, 2), torch.ones(3, 2)).c is None
        True
    """

    x: Tensor
    e: Tensor
    c: Tensor | None = None
    weight: Tensor | None = None


class Coupling(abc.ABC):
    """A way to pair.

    Attributes:
        given: Whether the data hold both ends, so that nothing is drawn.
    """

    given: ClassVar[bool] = False

    @abc.abstractmethod
    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        """Pair anew; both marginals (of ``x`` with ``c`` and ``weight``, and of ``e``) stay what they are in expectation.

        Args:
            pairs: Independent pairs.
            cost: Of a path, ``(n, *event), (m, *event) -> (n, m)``.
        """


@dataclasses.dataclass(frozen=True)
class Independent(Coupling):
    """Noise is drawn for each row on its own; right with any context.

    Example:
        >>> pairs = Pairs(torch.zeros(3, 2), torch.ones(3, 2))
        >>> Independent().pair(pairs, squared_distances) is pairs
        True
    """

    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        return pairs


@dataclasses.dataclass(frozen=True)
class Paired(Coupling):
    """The data hold both ends, ``(n, 2, *event)``: data first, then the base, as ``reflow`` makes them.

    Contexts are ``(n, 1, *context)``.

    Example:
        >>> Paired().given
        True
    """

    given: ClassVar[bool] = True

    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        return pairs


@dataclasses.dataclass(frozen=True)
class OptimalTransport(Coupling):
    """The assignment of least total cost, exact within each block of rows; for data without context.

    Args:
        block: Rows that are paired among themselves.

    Raises:
        ConfigError: If ``block < 1``.
        ContextError: From ``pair``, on rows with contexts.

    References:
        On implementing 2D rectangular assignment algorithms, Crouse 2016, the algorithm of SciPy's
        ``linear_sum_assignment``.

    Example:
        >>> pairs = Pairs(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
        >>> OptimalTransport().pair(pairs, squared_distances).e.tolist()
        [[1.0], [4.0]]
    """

    block: int = BLOCK

    def __post_init__(self) -> None:
        check(self.block >= 1, ConfigError, f"block must be at least 1, got {self.block}.")

    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        remedy = "noise would depend on the context; use ConditionalOptimalTransport, or Independent"
        check(pairs.c is None, ContextError, f"OptimalTransport pairs rows of different contexts, so their {remedy}.")
        return _in_blocks(_resampled(pairs), self.block, lambda p: _assigned(p, cost(p.x, p.e)))


@dataclasses.dataclass(frozen=True)
class ConditionalOptimalTransport(Coupling):
    r"""The assignment of least total :math:`\|x_i - e_j\|^2 + w \|c_i - c_j\|^2`; without context, ``OptimalTransport``.

    Each draw of the base has the context of the row that it was drawn for, so leaving the draws as they are costs nothing in
    context. Contexts should be of unit scale, as those of tables are.

    Args:
        weight: :math:`w`. The larger, the nearer to ``Independent`` for contexts that are all different, and to a transport
            within each class for labels; 0 ignores the context.
        block: Rows that are paired among themselves.

    Raises:
        ConfigError: If ``block < 1``, or ``weight`` is negative or not finite.

    Example:
        >>> c = torch.tensor([[0.0], [0.0], [1.0]])
        >>> pairs = Pairs(torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [1.0], [2.0]]), c)
        >>> ConditionalOptimalTransport().pair(pairs, squared_distances).e.tolist()
        [[1.0], [8.0], [2.0]]
    """

    weight: float = 100.0
    block: int = BLOCK

    def __post_init__(self) -> None:
        check(self.block >= 1, ConfigError, f"block must be at least 1, got {self.block}.")
        _check_weight(self.weight)

    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        return _in_blocks(
            _resampled(pairs), self.block, lambda p: _assigned(p, cost(p.x, p.e) + _context_cost(p.c, self.weight))
        )


@dataclasses.dataclass(frozen=True)
class SchrodingerBridge(Coupling):
    r"""Pairs drawn from the entropic plan with :math:`\epsilon = 2 \sigma^2`: the ends of a Schrödinger bridge.

    The bridge of Brownian motion with diffusion :math:`\sigma` pairs its ends by this plan and joins them by
    ``BrownianBridge(sigma)``. Small ``sigma`` tends to ``OptimalTransport``, large to ``Independent``. A row draws its noise
    from its row of the plan, so noise may be taken twice or not at all.

    Args:
        sigma: Diffusion, in the units of the continuous layer.
        weight: Of the context in the cost, as in ``ConditionalOptimalTransport``.
        block: Rows that are paired among themselves.

    Raises:
        ConfigError: If ``block < 1``, ``sigma`` is not positive, or ``weight`` is negative or not finite.

    References:
        Tong+ 2023, arXiv:2302.00482, the Schrödinger bridge among its couplings (SB-CFM).

    Example:
        >>> pairs = Pairs(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
        >>> SchrodingerBridge(0.1).pair(pairs, squared_distances).e.tolist()
        [[1.0], [4.0]]
    """

    sigma: float = 1.0
    weight: float = 100.0
    block: int = BLOCK

    def __post_init__(self) -> None:
        check(self.block >= 1, ConfigError, f"block must be at least 1, got {self.block}.")
        check(0 < self.sigma < math.inf, ConfigError, f"sigma must be positive and finite, got {self.sigma!r}.")
        _check_weight(self.weight)

    def pair(self, pairs: Pairs, cost: Cost) -> Pairs:
        return _in_blocks(
            pairs, self.block, lambda p: _drawn(p, cost(p.x, p.e) + _context_cost(p.c, self.weight), self.sigma)
        )


def _check_weight(weight: float) -> None:
    check(0 <= weight < math.inf, ConfigError, f"weight must be finite and not negative, got {weight!r}.")


def _context_cost(c: Tensor | None, weight: float) -> Tensor | float:
    return 0.0 if c is None or weight == 0 else weight * squared_distances(c, c)


def _in_blocks(pairs: Pairs, block: int, pair: Callable[[Pairs], Pairs]) -> Pairs:
    """Pair within consecutive blocks of nearly equal size; the choice carries no gradient."""
    uncaptured = torch.compiler.disable(_paired)  # not as a decorator: it loads the compiler, which takes a second
    return uncaptured(pairs, block, pair)


@torch.no_grad()
def _paired(pairs: Pairs, block: int, pair: Callable[[Pairs], Pairs]) -> Pairs:
    if not len(pairs.x):
        return pairs
    count = -(-len(pairs.x) // block)
    parts = [None if t is None else t.tensor_split(count) for t in pairs]
    done = [pair(Pairs(*(None if p is None else p[k] for p in parts))) for k in range(count)]  # type: ignore[arg-type]
    return pairs._replace(e=torch.cat([p.e for p in done]))


def _assigned(pairs: Pairs, cost: Tensor) -> Pairs:
    """Pairs of the assignment of least total cost."""
    from scipy.optimize import linear_sum_assignment  # SciPy is loaded by those who use it

    columns = linear_sum_assignment(cost.double().cpu().numpy())[1]
    return pairs._replace(e=pairs.e[torch.from_numpy(columns).to(pairs.e.device)])


def _drawn(pairs: Pairs, cost: Tensor, sigma: float) -> Pairs:
    """Pairs whose noise is drawn from the row of the entropic plan."""
    even = cost.new_full((len(cost),), -math.log(len(cost)))
    log_a = even if pairs.weight is None else _positive(pairs.weight).log().log_softmax(0).to(cost)
    plan = sinkhorn(cost, log_a, even, 2 * sigma**2)
    return pairs._replace(e=pairs.e[torch.multinomial(plan.softmax(1), 1).squeeze(1)])


def _positive(weight: Tensor) -> Tensor:
    return weight.clamp_min(torch.finfo(weight.dtype).tiny)


def _resampled(pairs: Pairs) -> Pairs:
    """Rows in proportion to their weights, systematically: a row of ``k`` times the mean is there about ``k`` times."""
    if pairs.weight is None:
        return pairs
    share = _positive(pairs.weight.double())
    n = len(share)
    ends = share.cumsum(0) / share.sum() * n
    points = torch.arange(n, dtype=share.dtype, device=share.device) + torch.rand((), device=share.device).double()
    rows = torch.searchsorted(ends, points).clamp(max=n - 1)
    return Pairs(pairs.x[rows], pairs.e, None if pairs.c is None else pairs.c[rows])
