r"""The predictive distribution of a conditional table: what is known of the targets once the given columns are.

With one target and a normal base the flow at a context is a monotone map :math:`z = f(y; x)`, so

.. math:: F(y \mid x) = \Phi(\pm f(y; x)), \qquad F^{-1}(u \mid x) = f^{-1}(\pm\Phi^{-1}(u); x),

exact for every recipe, and means and scores are integrals over :math:`z`, done by a trapezoidal rule with 257 nodes (where
the density has an empty gap, they are off by up to a hundredth of it). With several targets, or another base, the
marginals of each target are known from draws: probabilities then have a standard error of at most :math:`1/(2\sqrt{m})`
for :math:`m` draws. ``Predictive.exact`` says which it is.
"""

from typing import Any, Literal

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from bijectory.apps.calibration import crps_of_draws, crps_of_quantiles, probability
from bijectory.apps.table_flow import TableFlow
from bijectory.densities import StandardNormal
from bijectory.errors import ConfigError, check
from bijectory.tables import to_frame

NODES = np.linspace(-8.0, 8.0, 257)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()
CHUNK = 1 << 16  # values that pass through the flow at once
TAILS = 200  # lower tails among which the shortest interval is looked for
Kind = Literal["central", "hpd"]


class Predictive:
    """Quantiles, probabilities, means and intervals of the targets given the other columns.

    Outputs are the target columns in the order of the table. All arrays have the shape ``(rows, outputs, ...)``.

    Args:
        model: The flow of a table, usually with given columns.
        draws: Number of draws for each row where the answer is not exact.
        seed: Of these draws, and of the places within cells of dequantized targets.

    Attributes:
        outputs: Names of the targets.
        exact: Whether quantiles and probabilities come from the monotone map and not from draws.

    Example:
        >>> from bijectory import Flow, Standardize
        >>> from bijectory.tables import Column, Schema
        >>> flow = Flow(Standardize(1, [3.0], [2.0]), StandardNormal(1)).double()
        >>> model = TableFlow(flow, Schema(columns=(Column(name="y", loc=3.0, scale=2.0),), rows=10))
        >>> known = Predictive(model)
        >>> known.exact, known.quantiles({"any": [0.0]}, [0.5, 0.975]).round(3), known.mean({"any": [0.0]})
        (True, array([[[3.  , 6.92]]]), array([[3.]]))
    """

    def __init__(self, model: TableFlow, *, draws: int = 1000, seed: int = 0) -> None:
        ok = isinstance(draws, (int, np.integer)) and not isinstance(draws, bool) and draws >= 2
        check(ok, ConfigError, f"draws must be an int of at least 2, got {draws!r}.")
        self.model, self.draws, self.seed = model, int(draws), seed
        self._columns = [c for c in model.schema.columns if c.role == "target"]
        self.outputs = [c.name for c in self._columns]
        base = model.flow.base
        self.exact = len(self.outputs) == 1 and isinstance(base, StandardNormal) and tuple(base.event_shape) == (1,)

    def quantiles(self, given: Any, q: Any) -> np.ndarray:
        """Quantiles, ``(rows, outputs, k)``.

        Args:
            given: Rows with the given columns.
            q: ``(k,)`` probabilities in [0, 1], or ``(rows, outputs, k)``; 0 and 1 are the ends of the support.

        Raises:
            ConfigError: If a probability is outside [0, 1].
        """
        frame = to_frame(given)
        levels = np.asarray(q, dtype=np.float64)
        ok = levels.ndim in (1, 3) and bool(((levels >= 0) & (levels <= 1)).all())
        check(ok, ConfigError, f"quantiles are a list of probabilities in [0, 1], got {q!r}.")
        levels = np.broadcast_to(levels, (len(frame), len(self.outputs), levels.shape[-1]))
        inside = np.clip(levels, 1e-300, 1 - 1e-16)
        if self.exact:
            found = self._map(frame, ndtri(inside[:, 0]))[0][:, None]
        else:
            order = np.sort(self.sample(frame), axis=-1)
            place = np.ceil(inside * self.draws - 1e-9).astype(int) - 1
            found = np.take_along_axis(order, place.clip(0, self.draws - 1), axis=-1)
        low = np.array([c.value if c.kind == "constant" else c.support[0] for c in self._columns], dtype=float)
        high = np.array([c.value if c.kind == "constant" else c.support[1] for c in self._columns], dtype=float)
        found = np.where(levels <= 0, low[:, None], found)
        return np.where(levels >= 1, high[:, None], found)

    def cdf(self, data: Any, *, below: bool = False) -> np.ndarray:
        """Probability of a value up to that of the row (below it, where values lie on a lattice), ``(rows, outputs)``."""
        frame = to_frame(data)
        if not self.exact:
            draws, y = self.sample(frame), self.values(frame)[..., None]
            return (draws < y if below else draws <= y).mean(-1)
        rows = self.model.schema.encode(frame)
        x = self.model.schema.place(rows.x, 0.0 if below else 1.0)
        out = np.empty(len(frame))
        with torch.inference_mode():
            for part in self._chunks(len(frame), 1):
                c = None if rows.c is None else self._tensor(rows.c[part])
                z = self.model.flow.to_latent(self._tensor(x[part]), c)[0][:, 0]
                out[part] = ndtr((self._sign(c) * z).cpu().numpy())
        return out[:, None]

    def pit(self, data: Any) -> np.ndarray:
        """Probability integral transform, ``(rows, outputs)``: uniform where the model is right.

        Within the jumps of a lattice, and between the ranks among draws, its place is drawn.
        """
        frame = to_frame(data)
        if self.exact:
            low, high = self.cdf(frame, below=True), self.cdf(frame)
        else:
            draws, y = self.sample(frame), self.values(frame)[..., None]
            low = (draws < y).sum(-1) / (self.draws + 1)
            high = ((draws <= y).sum(-1) + 1) / (self.draws + 1)
        return low + np.random.default_rng(self.seed).random(low.shape) * (high - low)

    def mean(self, given: Any) -> np.ndarray:
        """Expected values, ``(rows, outputs)``."""
        frame = to_frame(given)
        return (self._nodes(frame) * WEIGHTS).sum(-1) if self.exact else self.sample(frame).mean(-1)

    def crps(self, data: Any) -> np.ndarray:
        """Continuous ranked probability score of each row and output, in the units of the output; lower is better."""
        frame = to_frame(data)
        y = self.values(frame)
        if self.exact:
            return crps_of_quantiles(self._nodes(frame), y, ndtr(NODES), WEIGHTS)
        return crps_of_draws(self.sample(frame), y)

    def interval(self, given: Any, level: float, kind: Kind = "central") -> np.ndarray:
        """Ends of an interval of each output that holds ``level`` of its probability, ``(rows, outputs, 2)``.

        Args:
            given: Rows with the given columns.
            level: In (0, 1).
            kind: "central", the same probability on either side, or "hpd", the shortest one. Where the density has
                several modes the region of highest density may be several intervals, see ``regions``.
        """
        frame, level = to_frame(given), probability(level, "level")
        tail = self.lower_tail(frame, level, kind)[..., None]
        return self.quantiles(frame, np.concatenate([tail, tail + level], axis=-1))

    def lower_tail(self, given: Any, level: float, kind: Kind = "central") -> np.ndarray:
        """Probability below the interval of that kind, ``(rows, outputs)``."""
        check(kind in ("central", "hpd"), ConfigError, f"kind={kind!r}; use 'central' or 'hpd'.")
        frame = to_frame(given)
        centre = np.full((len(frame), len(self.outputs), 1), (1 - level) / 2)
        if kind == "central":
            return centre[..., 0]
        step = (1 - level) / TAILS
        for reach in (np.arange(TAILS) - TAILS / 2 + 0.5, np.arange(-20, 21) / 20):
            tails = (centre + step * reach).clip(1e-9, 1 - level - 1e-9)
            ends = self.quantiles(frame, np.concatenate([tails, tails + level], axis=-1))
            k = tails.shape[-1]
            best = (ends[..., k:] - ends[..., :k]).argmin(-1)[..., None]
            centre = np.take_along_axis(tails, best, axis=-1)
        return centre[..., 0]

    def regions(self, given: Any, level: float) -> list[np.ndarray]:
        """Region of highest density of each row: its intervals, ``(k, 2)``, to the resolution of 257 nodes.

        Raises:
            ConfigError: If the quantiles are not exact (several targets, or a base that is not normal).
        """
        frame, level = to_frame(given), probability(level, "level")
        check(self.exact, ConfigError, "regions need one target and a flow with a normal base.")
        y, slope = self._map(frame, np.broadcast_to(NODES, (len(frame), len(NODES))))
        order = np.argsort(0.5 * NODES**2 + slope, axis=1)  # highest density first
        mass = np.take_along_axis(np.broadcast_to(WEIGHTS, order.shape), order, axis=1).cumsum(1)
        found = []
        for row, ranking, total in zip(y, order, mass, strict=True):
            inside = np.zeros(len(NODES) + 2, dtype=int)
            inside[1 + ranking[: int(np.searchsorted(total, level)) + 1]] = 1
            starts, stops = np.flatnonzero(np.diff(inside) == 1), np.flatnonzero(np.diff(inside) == -1) - 1
            edges = np.concatenate([row[:1], (row[1:] + row[:-1]) / 2, row[-1:]])
            found.append(np.stack([edges[starts], edges[stops + 1]], axis=1))
        return found

    def sample(self, given: Any, n: int | None = None, *, seed: int | None = None) -> np.ndarray:
        """Draws, ``(rows, outputs, n)``; the same draws in each call unless a seed is given.

        Args:
            given: Rows with the given columns.
            n: Draws for each row; None for ``draws``.
            seed: Another seed.
        """
        frame, n = to_frame(given), self.draws if n is None else n
        seed = self.seed if seed is None else seed
        total = n if self.model.schema.givens else n * len(frame)
        drawn = self.model.sample(total, given=frame if self.model.schema.givens else None, seed=seed)
        values = drawn[self.outputs].to_numpy(dtype=np.float64)
        return values.reshape(len(frame), n, len(self.outputs)).transpose(0, 2, 1)

    def values(self, data: Any) -> np.ndarray:
        """The outcomes in some rows, ``(rows, outputs)``, checked as in scoring."""
        frame = to_frame(data)
        self.model.schema.encode(frame)
        return frame[self.outputs].to_numpy(dtype=np.float64)

    def _nodes(self, frame: Any) -> np.ndarray:
        return self._map(frame, np.broadcast_to(NODES, (len(frame), len(NODES))))[0][:, None]

    def _map(self, frame: Any, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normal quantiles ``(rows, k)`` to those of the target, with log|dy/dz|."""
        c = self.model.schema.encode_given(frame)
        y, slope = np.empty(z.shape), np.empty(z.shape)
        with torch.inference_mode():
            for part in self._chunks(len(z), z.shape[1]):
                context = None if c is None else self._tensor(c[part])[:, None]
                latent = self._tensor(z[part])[..., None] * self._sign(context, slice(None))
                x, ladj = self.model.flow.to_data(latent, context)
                y[part], slope[part] = x[..., 0].cpu().numpy(), ladj.cpu().numpy()
        return self._columns[0].settle(y).astype(np.float64), slope

    def _sign(self, c: Tensor | None, feature: int | slice = 0) -> Tensor:
        """Direction of the map in each row, 1 or -1; a layer with a context may turn with it."""
        ends = self._tensor(np.array([[-1.0], [1.0]]))
        x = self.model.flow.to_data(ends if c is None else ends.reshape(2, *[1] * c.dim()), c)[0]
        return torch.sign(x[1] - x[0])[..., feature]

    def _tensor(self, values: np.ndarray) -> Tensor:
        like = next(iter(self.model.flow.state_dict().values()), torch.empty(0))
        return torch.tensor(values, device=like.device)

    @staticmethod
    def _chunks(rows: int, width: int) -> list[slice]:
        size = max(1, CHUNK // max(width, 1))
        return [slice(start, start + size) for start in range(0, rows, size)]
