"""Regression that answers with a distribution: ``p(y | X)`` by a normalizing flow, as a scikit-learn estimator."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_array, validate_data

from bijectory.apps.calibration import (
    LEVELS,
    Calibration,
    calibration_of,
    conformal_radius,
    probability,
)
from bijectory.apps.estimator import Seed, _FlowEstimator
from bijectory.apps.predictive import Kind, Predictive
from bijectory.errors import ConfigError, ContextError, DataError, check
from bijectory.tables.schema import check_finite


class ConditionalFlow(RegressorMixin, _FlowEstimator):
    r"""The distribution of one or several outputs given the features, ``p(y | X)``, by a normalizing flow.

    With one output, quantiles, probabilities, intervals, means and the CRPS are computed from the flow's monotone map; with
    several they are those of each output, from ``draws`` draws of the joint distribution (``Predictive.exact`` says which).
    Features and outputs are standardised inside with the Jacobian counted: densities are in the units of the data.

    Arrays have the shape of the outputs: ``(n, ...)`` for a 1-D ``y``, ``(n, outputs, ...)`` for a 2-D one.

    Args:
        recipe: Name of a recipe (``bijectory.recipes``), or a function ``(features, context, **recipe_args) -> Flow``.
        recipe_args: Keywords of the recipe.
        bounded: ``column name -> (low, high)``, of features (x0, x1, ... for arrays) and outputs (y, or y0, y1, ...).
        positive: Names of columns with values above 0.
        dequantize: Names of discrete outputs to which noise of one lattice step is added.
        draws: Draws for each row, where an answer is not exact.
        epochs: Passes over the data; None chooses.
        batch_size: Rows of a step; None chooses.
        lr: Peak learning rate; None chooses.
        patience: Epochs without improvement before training stops; None chooses.
        validation_fraction: Part of the rows for early stopping.
        time_budget: Seconds of training, or None.
        random_state: Seed of the split, the weights, and the order of the rows.
        verbose: Show progress on stderr.

    Attributes:
        flow_: The fitted ``TableFlow``, conditional on the features.
        predictive_: Its ``Predictive``.
        outputs_: Names of the outputs.
        history_: Records of the training.
        n_iter_: Number of epochs.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if all are strings.

    References:
        Distributional conformal prediction, Chernozhukov, Wüthrich, Zhu 2021, PNAS 118(48), arXiv:1909.07889.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 1))
        >>> y = X[:, 0] + 0.1 * rng.normal(size=200)
        >>> model = ConditionalFlow("real_nvp", epochs=2, random_state=0).fit(X, y)
        >>> model.predict(X).shape, model.predict_interval(X, 0.9).shape, model.sample(X, 5).shape
        ((200,), (200, 2), (200, 5))
    """

    def __init__(
        self,
        recipe: Any = "nsf",
        *,
        recipe_args: Mapping[str, Any] | None = None,
        bounded: Mapping[str, tuple[float, float]] | None = None,
        positive: Iterable[str] | None = None,
        dequantize: Iterable[str] | Mapping[str, float | None] | None = None,
        draws: int = 1000,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        time_budget: float | None = None,
        random_state: Seed = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.recipe_args = recipe_args
        self.bounded = bounded
        self.positive = positive
        self.dequantize = dequantize
        self.draws = draws
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.time_budget = time_budget
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True  # the score is a log-likelihood, which has no fixed scale, and not R²
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the flow.

        Args:
            X: ``(n, features)`` array or frame.
            y: ``(n,)`` or ``(n, outputs)``.
            sample_weight: ``(n,)`` non-negative weights; a row of weight 2 counts as two rows.

        Raises:
            DataError: If every output is constant.
        """
        given = y
        X, y = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            ensure_min_samples=2,
            ensure_all_finite=False,
            multi_output=True,
            y_numeric=True,
        )
        y = np.asarray(y, dtype=np.float64)
        check_finite(X, self._names(), "Fill or drop these values before fit.")
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        taken = set(self._names())
        self.outputs_ = [f"{name}_" if name in taken else name for name in _names_of(given, y)]
        self._one = y.ndim == 1
        self._conformal: tuple[pd.DataFrame, np.ndarray] | None = None
        varies = bool((np.ptp(y, axis=0) > 0).any())
        check(varies, DataError, "y is constant: there is no density to learn; use outputs that vary.")
        frame = self._frame(X, y)
        self._fit_frame(frame, weight, self._names())
        self.predictive_ = Predictive(self.flow_, draws=self.draws)
        return self

    # -- densities and scores ------------------------------------------------------------------------------------------

    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        """Log-density of each row of outputs given its features, in nats, ``(n,)``, in the units of the outputs."""
        return self.flow_.score_samples(self._read(X, y))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """*Mean* log-likelihood in nats, a proper score of distributions; for R² use ``scoring="r2"``."""
        return float(np.average(self.log_prob(X, y), weights=sample_weight))

    def crps(self, X: Any, y: Any) -> np.ndarray:
        """Continuous ranked probability score of each outcome, in its units, lower is better.

        By quadrature of the quantiles for one output; from draws, without bias, for several.

        References:
            Strictly Proper Scoring Rules, Prediction, and Estimation, Gneiting, Raftery 2007, JASA 102(477), eq. 21.
        """
        frame = self._read(X, y)
        return self._shape(self.predictive_.crps(frame))

    def cdf(self, X: Any, y: Any) -> np.ndarray:
        """Probability of an output up to ``y``."""
        frame = self._read(X, y)
        return self._shape(self.predictive_.cdf(frame))

    def pit(self, X: Any, y: Any) -> np.ndarray:
        """Probability integral transform: uniform where the model is right; randomised where it has jumps."""
        frame = self._read(X, y)
        return self._shape(self.predictive_.pit(frame))

    def calibration(self, X: Any, y: Any, levels: Sequence[float] = LEVELS) -> Calibration:
        """Nominal against empirical coverage of central intervals, and a test of the PIT: print it, or read ``.ok``.

        Args:
            X: Features of rows that ``fit`` has not seen.
            y: Their outputs.
            levels: Nominal levels.
        """
        frame = self._read(X, y)
        return calibration_of(self.predictive_.pit(frame), self.outputs_, levels=levels)

    # -- predictions ---------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """Expected values."""
        frame = self._read(X)
        return self._shape(self.predictive_.mean(frame))

    def predict_quantiles(self, X: Any, q: Any) -> np.ndarray:
        """Quantiles, ``(n, k)``, or ``(n, outputs, k)``.

        Args:
            X: Features.
            q: ``(k,)`` probabilities, or one (which leaves out the last axis); 0 and 1 are the ends of the support.
        """
        frame = self._read(X)
        found = self._shape(self.predictive_.quantiles(frame, np.atleast_1d(np.asarray(q, dtype=np.float64))))
        return found[..., 0] if np.ndim(q) == 0 else found

    def predict_interval(
        self, X: Any, level: float = 0.9, kind: Kind = "central", *, conformal: bool = False
    ) -> np.ndarray:
        """Ends of intervals, ``(n, 2)``, or ``(n, outputs, 2)``.

        Args:
            X: Features.
            level: In (0, 1).
            kind: "central", the same probability on either side, or "hpd", the shortest interval.
            conformal: Adjust the intervals so that they cover ``level`` of the outcomes whatever the quality of the fit, see
                ``conformalize``. Ends are infinite (or those of the support) where its rows are too few for the level.

        Raises:
            ContextError: If ``conformal`` is asked for before ``conformalize``.
        """
        frame = self._read(X)
        level = probability(level, "level")
        if not conformal:
            return self._shape(self.predictive_.interval(frame, level, kind))
        check(
            self._conformal is not None, ContextError, "call conformalize(X, y) with rows that fit has not seen first."
        )
        rows, pit = self._conformal  # type: ignore[misc]  # checked above
        middle = self.predictive_.lower_tail(rows, level, kind) + level / 2
        radius = conformal_radius(np.abs(pit - middle), level)
        radius = radius if self.predictive_.exact else radius + 1 / (self.draws + 1)  # the rank among draws is drawn
        centre = self.predictive_.lower_tail(frame, level, kind) + level / 2
        return self._shape(
            self.predictive_.quantiles(frame, np.stack([centre - radius, centre + radius], -1).clip(0, 1))
        )

    def predict_region(self, X: Any, level: float = 0.9) -> list[np.ndarray]:
        """Region of highest density of each row, one ``(k, 2)`` array of disjoint intervals; for one output."""
        frame = self._read(X)
        return self.predictive_.regions(frame, level)

    def conformalize(self, X: Any, y: Any) -> Self:
        r"""Take rows that ``fit`` has not seen to guarantee the coverage of ``predict_interval(..., conformal=True)``.

        Distributional conformal prediction: with :math:`V_i = |F(y_i \mid x_i) - b(x_i)|`, where :math:`b` is the middle of
        the interval as a probability (1/2 for central ones), and :math:`r` the :math:`\lceil (n+1)\alpha \rceil`-th smallest
        of them, :math:`\{y : |F(y \mid x) - b(x)| \le r\}` holds the outcome of a new exchangeable row with probability at
        least :math:`\alpha`: on average over rows, for each output by itself, and not for every ``x``.

        References:
            Distributional conformal prediction, Chernozhukov, Wüthrich, Zhu 2021, arXiv:1909.07889, algorithms 1 and 2.
        """
        frame = self._read(X, y)
        self._conformal = frame, self.predictive_.pit(frame)
        return self

    def sample(self, X: Any, n: int = 1, seed: Seed = None) -> np.ndarray:
        """Draw outputs: ``(rows, n)``, or ``(rows, n, outputs)`` jointly.

        Args:
            X: Features.
            n: Draws for each row.
            seed: Seed.
        """
        frame = self._read(X)
        ok = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        check(ok, ConfigError, f"n must be a non-negative int, got {n!r}.")
        drawn = self.predictive_.sample(frame, int(n), seed=int(check_random_state(seed).randint(2**31 - 1)))
        return drawn[:, 0] if self._one else drawn.transpose(0, 2, 1)

    def _read(self, X: Any, y: Any = None) -> pd.DataFrame:
        """Checked features, and outputs if given, as the table that the flow knows."""
        X = self._check(X)
        if y is None:
            return pd.DataFrame(X, columns=self._names())
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        wide = y.reshape(len(y), -1)
        same = wide.shape == (len(X), len(self.outputs_))
        check(same, DataError, f"y has shape {y.shape}, expected {len(X)} rows of {len(self.outputs_)} output(s).")
        return self._frame(X, wide)

    def _frame(self, X: np.ndarray, y: np.ndarray) -> pd.DataFrame:
        values = np.column_stack([X, y])
        return pd.DataFrame(values, columns=[*self._names(), *self.outputs_])

    def _shape(self, found: np.ndarray) -> np.ndarray:
        return found[:, 0] if self._one else found


def _names_of(given: Any, y: np.ndarray) -> list[str]:
    """Names of the outputs: those of a frame or series, else y, or y0, y1, ..."""
    if hasattr(given, "columns"):
        return [str(name) for name in given.columns]
    if y.ndim == 2:
        return [f"y{k}" for k in range(y.shape[1])]
    name = getattr(given, "name", None)
    return ["y" if name is None else str(name)]
