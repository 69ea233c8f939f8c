"""How will a patient's diabetes progress? A distribution for each patient, and whether it can be trusted.

    python examples/diabetes.py

The data are those of Efron, Hastie, Johnstone, Tibshirani 2004 (Least Angle Regression), as scikit-learn brings them: 442
patients, 10 measurements, and a measure of progression a year later. A conditional flow is compared, on patients it has not
seen, with linear regression with normal errors: coverage of 80 % intervals, and the continuous ranked probability score.
"""

import warnings

import numpy as np
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from bijectory.apps import ConditionalFlow
from bijectory.tables import DataWarning


def gaussian_crps(mean, spread, y):
    w = (y - mean) / spread
    return spread * (w * (2 * stats.norm.cdf(w) - 1) + 2 * stats.norm.pdf(w) - 1 / np.sqrt(np.pi))


def main(epochs: int | None = None, seed: int = 0) -> dict[str, float]:
    warnings.simplefilter("ignore", DataWarning)  # the data are few, and the columns sex and y are discrete: known
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=120, random_state=seed)
    X_fit, X_held, y_fit, y_held = train_test_split(X, y, test_size=80, random_state=seed)

    line = LinearRegression().fit(X, y)
    spread = np.sqrt(((y - line.predict(X)) ** 2).sum() / (len(X) - X.shape[1] - 1))
    mean = line.predict(X_test)

    # affine layers and a small network suit 320 rows
    model = ConditionalFlow(
        "maf",
        recipe_args={"layers": 2, "hidden": (16,)},
        positive=["target"],
        epochs=epochs,
        patience=20,
        random_state=seed,
    )
    model.fit(X_fit, y_fit).conformalize(X_held, y_held)

    def coverage(ends):
        return float(((ends[:, 0] <= y_test) & (y_test <= ends[:, 1])).mean())

    half = stats.norm.ppf(0.9) * spread
    found = {
        "linear CRPS": float(gaussian_crps(mean, spread, y_test.to_numpy()).mean()),
        "flow CRPS": float(model.crps(X_test, y_test).mean()),
        "linear coverage": coverage(np.stack([mean - half, mean + half], axis=1)),
        "flow coverage": coverage(model.predict_interval(X_test, 0.8)),
        "conformal coverage": coverage(model.predict_interval(X_test, 0.8, conformal=True)),
    }
    for name, value in found.items():
        print(f"{name:20} {value:8.3f}")
    print(model.calibration(X_test, y_test, levels=[0.5, 0.8, 0.9]))
    ends = model.predict_interval(X_test[:3], 0.8, conformal=True)
    for k, (low, high) in enumerate(ends):
        print(f"patient {k}: progression {low:.0f} to {high:.0f} (80 %), it was {y_test.iloc[k]:.0f}")
    return found


if __name__ == "__main__":
    main()
