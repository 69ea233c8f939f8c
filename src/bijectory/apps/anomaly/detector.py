"""A detector: a score of a fitted flow, calibrated on rows that were held out."""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bijectory.apps.anomaly.calibration import benjamini_hochberg, conformal_p_values, rows_needed
from bijectory.apps.anomaly.contributions import Explanation, explain_rows
from bijectory.apps.anomaly.findings import Findings
from bijectory.apps.anomaly.patches import PatchExplanation, explain_images
from bijectory.apps.anomaly.states import StateDensity, Surprise
from bijectory.apps.anomaly.statistics import code_length, latent_radius, log_likelihood, score_norm
from bijectory.apps.images import ImageFlow, load_images
from bijectory.apps.images.fit import thin
from bijectory.apps.kind import run_kind
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import load_rows
from bijectory.errors import ConfigError, DataError, NonFiniteError, check
from bijectory.tables import to_matrix

Method = Literal[
    "log-likelihood",
    "typicality",
    "likelihood-ratio",
    "radius",
    "score-norm",
    "density-of-states",
    "input-complexity",
    "combined",
]
METHODS: tuple[str, ...] = get_args(Method)
TABLES: Method = "log-likelihood"
IMAGES: Method = "combined"
FITTED = ("typicality", "score-norm", "density-of-states", "combined")  # these learn something from rows apart
KEPT = 2000  # of the images that a run folder keeps in each part: scores of images take milliseconds each
Control = Literal["level", "discoveries"]


class Detector:
    r"""Rows that do not come from where the training rows come from.

    ===================== ==============================================================================================
    method                score (larger is more abnormal)
    ===================== ==============================================================================================
    "log-likelihood"      :math:`-\log p(x)`
    "typicality"          :math:`|-\log p(x) - \hat H|`, the distance from the entropy (arXiv:1906.02994, eq. 5, for M = 1)
    "likelihood-ratio"    :math:`\log p_0(x) - \log p(x)`, with a background flow :math:`p_0` (arXiv:1906.02845, eq. 4)
    "radius"              :math:`\lVert z(x) \rVert`
    "score-norm"          :math:`\lVert \nabla \log p(x) \rVert`, each column in units of its standard deviation
    "density-of-states"   :math:`-\log q(T(x))`, kernel density of log p, radius, log score norm and, of images, length of
                          the code, all together (after arXiv:2006.09273, eq. 2, where each has a density by itself)
    "input-complexity"    :math:`-\log p(x) - L(x)` of an image, with the length L of its code (arXiv:1909.11480, eq. 3)
    "combined"            :math:`-\log p_1 - \log p_2` (Fisher), with the p-values of the density of states and of the input
                          complexity of images, or the log-likelihood of rows, among reference rows
    ===================== ==============================================================================================

    What a method has to learn (the entropy, scales, kernel densities) it learns from ``reference``; p-values come from
    ``held_out`` alone. Neither may hold training rows: a flow likes these too much and too many alarms would follow.

    Args:
        source: A fitted density, or a run folder.
        held_out: Rows that the flow was not fitted to; None takes the test part that a run folder keeps, of images at most
            2,000.
        method: See above; None for "log-likelihood" of rows and "combined" of images.
        background: For "likelihood-ratio", the background flow or its run folder, see ``perturb_rows`` and
            ``perturb_pixels``.
        reference: More rows that the flow was not fitted to, for methods that learn from them; None takes the validation
            part of a run folder, or a random half of ``held_out``.
        seed: Seed of such halves.

    Attributes:
        model: The density.
        method: The method.
        calibration: Sorted scores of the held-out rows.

    Raises:
        ConfigError: On an unknown method or one that does not fit the model.
        DataError: If there are too few held-out rows.

    Example:
        >>> from bijectory import Flow, Schema, StandardNormal, Standardize
        >>> from bijectory.tables import Column
        >>> flow = Flow(Standardize(2, [0.0, 5.0], [1.0, 2.0]), StandardNormal(2)).double()
        >>> model = TableFlow(flow, Schema(columns=(Column(name="a"), Column(name="b")), rows=10))
        >>> detector = Detector(model, model.sample(999, seed=0))
        >>> new = {"a": [0.0, 6.0], "b": [5.0, 5.0]}
        >>> detector.p_values(new), detector.flag(new, 0.01)
        (array([1.   , 0.001]), array([False,  True]))
        >>> detector.explain(new).ranking()[0].tolist()
        ['a', 'a']
    """

    def __init__(
        self,
        source: TableFlow | ImageFlow | str | Path,
        held_out: Any = None,
        *,
        method: Method | None = None,
        background: TableFlow | ImageFlow | str | Path | None = None,
        reference: Any = None,
        seed: int = 0,
    ) -> None:
        model = _model(source)
        method = (IMAGES if isinstance(model, ImageFlow) else TABLES) if method is None else method
        check(method in METHODS, ConfigError, f"method={method!r} is unknown; use one of {', '.join(METHODS)}.")
        needs = "needs a background flow; pass background" if method == "likelihood-ratio" else "has no background"
        check((background is not None) == (method == "likelihood-ratio"), ConfigError, f"method {method!r} {needs}.")
        self.model, self.method = model, method
        image = isinstance(model, ImageFlow)
        check(method != "input-complexity" or image, ConfigError, "method 'input-complexity' is for images only.")
        self._seed = seed
        self.background = None if background is None else _model(background)
        self._same_columns()
        if held_out is None:
            held_out, kept = _kept(source)
            reference = kept if reference is None else reference
        held_out = self._read(held_out)
        if method in FITTED and reference is None:
            order = np.random.default_rng(seed).permutation(len(held_out))
            half = len(order) // 2
            held_out, reference = _take(held_out, order[half:]), _take(held_out, order[:half])
        self.reference = held_out if reference is None else self._read(reference)
        few = min(len(held_out), len(self.reference)) < 2
        check(
            not few, DataError, "there are fewer than 2 held-out rows; pass more rows that the flow was not fitted to."
        )
        self._learn()
        self.calibration = np.sort(self.score(held_out))

    def __repr__(self) -> str:
        return f"Detector({self.model!r}, {self.method}, {len(self.calibration)} held-out rows)"

    def score(self, data: Any, *, nonfinite: Literal["raise", "propagate"] = "raise") -> NDArray[np.float64]:
        """Score of each row, ``(n,)``: larger is more abnormal, infinite where the density is zero.

        Args:
            data: Rows (columns by name, in any order), or images.
            nonfinite: "raise" refuses missing values, "propagate" gives NaN.

        Raises:
            NonFiniteError: On missing values; the row is named.
        """
        data = self._read(data)
        log_prob = log_likelihood(self.model, data)
        unknown = np.flatnonzero(np.isnan(log_prob))
        check(
            nonfinite == "propagate" or not len(unknown),
            NonFiniteError,
            f"{len(unknown)} of {len(log_prob)} rows have missing values (first: row {unknown[:1].sum()}); fill or drop "
            "them, or pass nonfinite='propagate' (--nonfinite propagate) to get NaN.",
        )
        with np.errstate(invalid="ignore"):
            score = self._score(data, log_prob)
        return np.where(log_prob == -np.inf, np.inf, np.where(np.isnan(log_prob), np.nan, score))

    def p_values(self, data: Any, *, nonfinite: Literal["raise", "propagate"] = "raise") -> NDArray[np.float64]:
        """Conformal p-value of each row, ``(n,)``; arguments as in ``score``."""
        return self.p_values_of(self.score(data, nonfinite=nonfinite))

    def p_values_of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Conformal p-values of scores that are known already, ``(n,)``."""
        return conformal_p_values(self.calibration, scores)

    def flag(
        self,
        data: Any,
        fpr: float = 0.01,
        *,
        control: Control = "level",
        nonfinite: Literal["raise", "propagate"] = "raise",
    ) -> NDArray[np.bool_]:
        """Which rows are anomalies, ``(n,)``.

        Args:
            data: Rows, or images.
            fpr: Rate of false alarms that is allowed, in (0, 1).
            control: What the rate is a share of: "level" of the ordinary rows, each by itself; "discoveries" of the rows
                that are flagged (Benjamini-Hochberg), which is stricter where anomalies are rare.
            nonfinite: As in ``score``; rows with missing values are not flagged.

        Raises:
            ConfigError: If there are too few held-out rows for such a rate.
        """
        return self.decide(self.p_values(data, nonfinite=nonfinite), fpr, control=control)

    def decide(
        self, p_values: NDArray[np.float64], fpr: float = 0.01, *, control: Control = "level"
    ) -> NDArray[np.bool_]:
        """Which p-values are small enough; arguments as in ``flag``."""
        check(control in get_args(Control), ConfigError, f"control={control!r}; use 'level' or 'discoveries'.")
        n, needed = len(self.calibration), rows_needed(fpr)
        remedy = f"{n} held-out rows allow no rate below {1 / (n + 1):.2g}; pass more of them, or a larger rate."
        check(n >= needed, ConfigError, f"fpr={fpr} needs at least {needed} held-out rows; {remedy}")
        if control == "discoveries":
            return benjamini_hochberg(p_values, fpr)
        return np.nan_to_num(p_values, nan=1.0) <= fpr * (1 + 1e-12)

    def judge(
        self,
        data: Any,
        fpr: float = 0.01,
        *,
        control: Control = "level",
        nonfinite: Literal["raise", "propagate"] = "raise",
    ) -> Findings:
        """Scores, p-values and decisions in one; arguments as in ``flag``."""
        self.decide(np.empty(0), fpr, control=control)  # before the work, what cannot be asked
        score = self.score(data, nonfinite=nonfinite)
        p = self.p_values_of(score)
        flagged = self.decide(p, fpr, control=control)
        return Findings(score, p, flagged, self.calibration, self.method, fpr, control)

    def explain(self, data: Any) -> Explanation | PatchExplanation:
        """What each column contributes to each row's being improbable under the flow, or each patch to an image's score.

        See ``explain_rows`` and ``explain_images``.

        Args:
            data: Rows or images to explain.
        """
        model = self.model
        if isinstance(model, TableFlow):
            return explain_rows(model, data, self.reference)
        schema = model.schema

        def score(images: NDArray[Any]) -> NDArray[np.float64]:
            return self.score(np.moveaxis(images, -1, 1) if schema.layout == "CHW" else images)

        known = (schema.decode(schema.encode(x)) for x in (data, self.reference))
        images, reference = (schema.channels_last(x) for x in known)
        return explain_images(score, images, reference)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        self._entropy, self._scale = 0.0, np.ones(1)
        if self.method not in FITTED:
            return
        log_prob = log_likelihood(self.model, self.reference)
        check(bool(np.isfinite(log_prob).all()), DataError, "reference rows have missing or impossible values.")
        self._entropy = -float(log_prob.mean())
        if isinstance(self.model, TableFlow):
            names = [c.name for c in self.model.schema.targets]
            self._scale = to_matrix(self.reference, names).std(0)
        if self.method in ("density-of-states", "combined"):
            states = self._states(self.reference, log_prob)
            # What is counted must not be what the kernels stand on.
            counted = np.zeros(len(states), dtype=bool)
            if self.method == "combined":
                check(len(states) >= 4, DataError, "method 'combined' needs at least 4 reference rows; pass more.")
                counted[np.random.default_rng(self._seed).permutation(len(states))[: len(states) // 2]] = True
            self._density = StateDensity(states[~counted])
            if self.method == "combined":
                rare, simple = self._density.nats(states[counted]), self._directed(states)[counted]
                self._surprises = Surprise(rare), Surprise(simple)

    def _score(self, data: Any, log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.method == "typicality":
            return np.abs(-log_prob - self._entropy)
        if self.background is not None:
            return log_likelihood(self.background, data) - log_prob
        if self.method == "radius":
            return latent_radius(self.model, data)
        if self.method == "score-norm":
            return score_norm(self.model, data, self._scale)
        if self.method == "density-of-states":
            return self._density.nats(self._states(data, log_prob))
        if self.method == "combined":
            states = self._states(data, log_prob)
            rare, simple = self._surprises
            return rare.nats(self._density.nats(states)) + simple.nats(self._directed(states))
        if self.method == "input-complexity":
            return -log_prob - self._code_length(data)
        return -log_prob

    def _states(self, data: Any, log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
        norm = score_norm(self.model, data, self._scale)
        states = [log_prob, latent_radius(self.model, data), np.log(np.maximum(norm, 1e-300))]
        if isinstance(self.model, ImageFlow):
            states.append(self._code_length(data))
        return np.stack(states, axis=1)

    def _directed(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score with a direction, from the statistics: input complexity, or of rows the log-likelihood."""
        return -states[:, 0] - states[:, 3] if isinstance(self.model, ImageFlow) else -states[:, 0]

    def _code_length(self, data: Any) -> NDArray[np.float64]:
        model = self.model
        if not isinstance(model, ImageFlow):
            raise ConfigError("method 'input-complexity' is for images only.")
        return code_length(np.moveaxis(model.schema.encode(data), 1, -1), model.schema.levels)

    def _read(self, data: Any) -> Any:
        return self.model.schema.frame(data) if isinstance(self.model, TableFlow) else np.asarray(data)

    def _same_columns(self) -> None:
        a, b = self.model, self.background
        if b is None:
            return
        check(
            type(a) is type(b), ConfigError, f"the background is a {type(b).__name__}, the flow a {type(a).__name__}."
        )
        if isinstance(a, TableFlow) and isinstance(b, TableFlow):
            ours, theirs = ({c.name for c in m.schema.columns if c.kind != "constant"} for m in (a, b))
            check(ours == theirs, ConfigError, f"the background has columns {sorted(theirs)}, the flow {sorted(ours)}.")


def _model(source: TableFlow | ImageFlow | str | Path) -> TableFlow | ImageFlow:
    if isinstance(source, (TableFlow, ImageFlow)):
        return source
    return ImageFlow.load(source) if run_kind(source) == "image" else TableFlow.load(source)


def _kept(source: Any) -> tuple[Any, Any]:
    """Test and validation part of a run folder; what is too small for two parts serves as the first."""
    folder = isinstance(source, (str, Path))
    check(folder, DataError, "pass held_out: rows that the flow was not fitted to (a run folder keeps its own).")
    if run_kind(source) == "image":
        images = load_images(source)
        parts = {name: kept[thin(np.arange(len(kept)), KEPT)] for name, (kept, _) in images.items()}
    else:
        parts = load_rows(source)
    found = [parts[name] for name in ("test", "validation") if name in parts and len(parts[name]) > 1]
    check(len(found) > 0, DataError, f"{source} keeps no held-out rows; pass held_out.")
    return found[0], found[1] if len(found) > 1 else None


def _take(data: Any, rows: NDArray[np.intp]) -> Any:
    return data.iloc[rows] if isinstance(data, pd.DataFrame) else data[rows]
