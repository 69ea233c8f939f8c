"""scikit-learn estimators: a flow as density and as outlier detector."""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from bijectory.apps.assemble import objective_of
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import fit_table, table_config
from bijectory.errors import ConfigError, check
from bijectory.tables.frame import generated_names
from bijectory.tables.prepare import weighted_quantile
from bijectory.tables.schema import NonFinite, check_finite

Seed = int | np.random.RandomState | None


class _FlowEstimator(BaseEstimator):
    """What the estimators share: fitting by ``fit_table`` and scoring in float64."""

    def _fit_flow(self, X: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray | None]:
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_all_finite=False)
        check_finite(X, self._names(), "Fill or drop these values before fit.")
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        self._fit_frame(pd.DataFrame(X, columns=self._names()), weight)
        return X, weight

    def _fit_frame(self, frame: pd.DataFrame, weight: np.ndarray | None, given: Iterable[str] = ()) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = {"validation_fraction": self.validation_fraction, "seed": seed, "progress": bool(self.verbose)}
        training = ("epochs", "batch_size", "lr", "patience", "time_budget")
        chosen = {name: getattr(self, name) for name in training if getattr(self, name) is not None}
        fitted = fit_table(
            frame,
            given=given,
            recipe=self.recipe,
            recipe_args=self.recipe_args,
            bounded=self.bounded,
            positive=self.positive or (),
            dequantize=self.dequantize or (),
            weight=weight,
            test_fraction=0.0,
            audit=False,
            config=table_config(len(frame), objective=objective_of(None, self.recipe)[1], **settings, **chosen),
        )
        self.flow_: TableFlow = fitted.model
        self.history_: list[dict[str, Any]] = fitted.result.history
        self.n_iter_ = max(1, len(fitted.result.history))

    def _score(self, X: Any, nonfinite: NonFinite = "raise") -> np.ndarray:
        X = self._check(X, nonfinite)
        return self.flow_.score_samples(X, nonfinite=nonfinite)

    def _check(self, X: Any, nonfinite: NonFinite = "raise") -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False)
        if nonfinite != "propagate":
            check_finite(X, self._names(), "Pass nonfinite='propagate' to score_samples to get NaN for these rows.")
        return X

    def _names(self) -> list[str]:
        names = getattr(self, "feature_names_in_", None)
        return generated_names(self.n_features_in_) if names is None else list(names)


class FlowDensity(DensityMixin, TransformerMixin, _FlowEstimator):
    """Density of the rows of a table by a normalizing flow.

    Columns are standardised inside with the Jacobian counted, so a log-likelihood is in the units of the data and no
    scaler is needed before it (a scaler in a pipeline would silently change the units). Training uses a tenth of the rows
    for early stopping, scoring is in float64. A frame in gives frames out of ``transform``, ``inverse_transform`` and
    ``sample``.

    Args:
        recipe: Name of a recipe (``bijectory.recipes``), or a function ``(features, context, **recipe_args) -> Flow``.
        recipe_args: Keywords of the recipe.
        bounded: ``column name -> (low, high)``; columns of arrays are called x0, x1, ...
        positive: Names of columns with values above 0.
        dequantize: Names of discrete columns to which noise of one lattice step is added.
        epochs: Passes over the data; None chooses.
        batch_size: Rows of a step; None chooses.
        lr: Peak learning rate; None chooses.
        patience: Epochs without improvement before training stops; None chooses.
        validation_fraction: Part of the rows for early stopping.
        time_budget: Seconds of training, or None.
        random_state: Seed of the split, the weights and the order of the rows.
        verbose: Show progress on stderr.

    Attributes:
        flow_: The fitted ``TableFlow``.
        history_: Records of the training.
        n_iter_: Number of epochs.
        n_features_in_: Number of columns.
        feature_names_in_: Their names, if all are strings.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> density = FlowDensity("real_nvp", epochs=2, random_state=0).fit(X)
        >>> density.score_samples(X).shape, density.sample(3, random_state=0).shape
        ((200,), (3, 2))
    """

    def __init__(
        self,
        recipe: Any = "nsf",
        *,
        recipe_args: Mapping[str, Any] | None = None,
        bounded: Mapping[str, tuple[float, float]] | None = None,
        positive: Iterable[str] | None = None,
        dequantize: Iterable[str] | Mapping[str, float | None] | None = None,
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
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.time_budget = time_budget
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the flow.

        Args:
            X: ``(n, columns)`` array or frame.
            y: Ignored.
            sample_weight: ``(n,)`` non-negative weights.
        """
        self._fit_flow(X, sample_weight)
        return self

    def score_samples(self, X: Any, *, nonfinite: NonFinite = "raise") -> np.ndarray:
        """Log-likelihood of each row in nats, in the units of the data.

        Args:
            X: ``(n, columns)``.
            nonfinite: "raise", or "propagate": NaN gives NaN, infinity and values outside the bounds give ``-inf``.
        """
        return self._score(X, nonfinite)

    def score(self, X: Any, y: Any = None) -> float:
        """*Mean* log-likelihood of the rows in nats (as GaussianMixture; KernelDensity returns a sum)."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Seed = None) -> Any:
        """Draw rows: a frame if the estimator was fitted on one, else an array.

        Args:
            n_samples: Number of rows.
            random_state: Seed.
        """
        check_is_fitted(self)
        ok = isinstance(n_samples, numbers.Integral) and n_samples >= 0
        check(ok, ConfigError, f"n_samples must be a non-negative int, got {n_samples!r}.")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return self._like_fit(self.flow_.sample(int(n_samples), seed=seed))

    def transform(self, X: Any) -> Any:
        """Data -> latent, ``(n, columns that vary)``; standard normal where the model is right."""
        index = X.index if isinstance(X, pd.DataFrame) else None
        X = self._check(X)
        z = self.flow_.transform(X)
        return z.to_numpy() if index is None else z.set_axis(index, axis=0)

    def inverse_transform(self, Z: Any) -> Any:
        """Latent -> data: a frame if the estimator was fitted on one, else an array."""
        check_is_fitted(self)
        return self._like_fit(self.flow_.inverse_transform(Z))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the latent columns: z0, z1, ..."""
        check_is_fitted(self)
        return np.asarray(self.flow_.latent_names, dtype=object)

    def _like_fit(self, frame: pd.DataFrame) -> Any:
        return frame if hasattr(self, "feature_names_in_") else frame.to_numpy(dtype=np.float64)


class FlowOutlier(OutlierMixin, _FlowEstimator):
    """Outliers as rows of low density under a normalizing flow.

    The score is the log-density. In many dimensions a low density is neither necessary nor sufficient for being atypical
    (Nalisnick+ 2018, arXiv:1810.09136): a ranking to look at, not a proof.

    Args:
        contamination: Part of the training rows that is called outliers, in (0, 0.5].
        recipe: As in ``FlowDensity``, like all other arguments.
        recipe_args: Keywords of the recipe.
        bounded: ``column name -> (low, high)``.
        positive: Names of columns with values above 0.
        dequantize: Names of discrete columns.
        epochs: Passes over the data; None chooses.
        batch_size: Rows of a step; None chooses.
        lr: Peak learning rate; None chooses.
        patience: Epochs without improvement before training stops; None chooses.
        validation_fraction: Part of the rows for early stopping.
        time_budget: Seconds of training, or None.
        random_state: Seed.
        verbose: Show progress on stderr.

    Attributes:
        flow_: The fitted ``TableFlow``.
        offset_: Log-density below which a row is an outlier.
        history_: Records of the training.
        n_iter_: Number of epochs.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> detector = FlowOutlier(recipe="real_nvp", epochs=2, random_state=0).fit(X)
        >>> detector.predict([[0.0, 0.0], [9.0, 9.0]])
        array([ 1, -1])
    """

    def __init__(
        self,
        contamination: float = 0.1,
        *,
        recipe: Any = "nsf",
        recipe_args: Mapping[str, Any] | None = None,
        bounded: Mapping[str, tuple[float, float]] | None = None,
        positive: Iterable[str] | None = None,
        dequantize: Iterable[str] | Mapping[str, float | None] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        time_budget: float | None = None,
        random_state: Seed = None,
        verbose: bool = False,
    ) -> None:
        self.contamination = contamination
        self.recipe = recipe
        self.recipe_args = recipe_args
        self.bounded = bounded
        self.positive = positive
        self.dequantize = dequantize
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.time_budget = time_budget
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the flow and set the threshold ``offset_`` at the ``contamination`` quantile of the training scores."""
        ok = isinstance(self.contamination, numbers.Real) and 0 < self.contamination <= 0.5
        check(ok, ConfigError, f"contamination must be in (0, 0.5], got {self.contamination!r}.")
        X, weight = self._fit_flow(X, sample_weight)
        scores = self.flow_.score_samples(X)
        kept = np.ones(len(X), dtype=bool) if weight is None else weight > 0
        self.offset_ = weighted_quantile(scores[kept], self.contamination, None if weight is None else weight[kept])
        return self

    def score_samples(self, X: Any, *, nonfinite: NonFinite = "raise") -> np.ndarray:
        """Log-density of each row in nats: the lower, the more abnormal."""
        return self._score(X, nonfinite)

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for inliers, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)
