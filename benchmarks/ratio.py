"""Log-density ratios against the truth: two normal densities in 2, 10 and 50 dimensions.

p has pairs of columns with correlation 0.8, q is standard normal: the columns by themselves say nothing. KL(p | q) is
0.51 nats a pair. Every estimator sees the same 2,000 rows of each; errors are root mean squares over 1,000 fresh rows of
p and of q, in nats. The claimed standard error is a mean over the rows of p.

    python benchmarks/ratio.py          # a few minutes of one core; prints the table of docs/ratio.md
"""

import argparse
import time
import warnings

import numpy as np

import bijectory as bj
from bijectory.apps.ratio import FlowRatio, fit_ratio

RHO, ROWS, FRESH = 0.8, 2_000, 1_000


def correlated(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    x[:, 1::2] = RHO * x[:, ::2] + np.sqrt(1 - RHO**2) * x[:, 1::2]
    return x


def truth(x: np.ndarray) -> np.ndarray:
    a, b = x[:, ::2], x[:, 1::2]
    pair = -0.5 * np.log(1 - RHO**2) - (a**2 - 2 * RHO * a * b + b**2) / (2 * (1 - RHO**2)) + (a**2 + b**2) / 2
    return pair.sum(1)


def flows(p: np.ndarray, q: np.ndarray, members: int, seed: int) -> FlowRatio:
    """Fits to resampled rows, so that their spread is a standard error."""
    found: tuple[list, list] = ([], [])
    for k in range(members):
        for rows, out in zip((p, q), found, strict=True):
            rng = np.random.default_rng([seed, k, len(out)])
            config = bj.FitConfig(epochs=30, seed=k, progress=False, patience=8, batch_size=256, lr=3e-3)
            resampled = rows[rng.integers(0, len(rows), len(rows))]
            args = {"layers": 4, "hidden": (64,)}
            fitted = bj.fit_table(resampled, recipe="real_nvp", recipe_args=args, config=config, audit=False)
            out.append(fitted.model)
    return FlowRatio(*found)


METHODS = {
    "two flows (real_nvp, 4 layers)": lambda p, q: flows(p, q, 2, 0),
    "boosted trees, calibrated": lambda p, q: fit_ratio(p, q, classifier="boosting", members=2),
    "quadratic logistic regression": lambda p, q: fit_ratio(p, q, members=3),
    "telescoping, 4 quadratic bridges": lambda p, q: fit_ratio(p, q, method="telescoping", bridges=4, members=3),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dims", type=int, nargs="*", default=[2, 10, 50])
    parser.add_argument("--methods", default="", help="part of the names of the estimators that are run")
    asked = parser.parse_args()
    dims, methods = asked.dims, {name: m for name, m in METHODS.items() if asked.methods in name}
    warnings.simplefilter("ignore", bj.DataWarning)
    print("| d | method | error on p | error on q | claimed se on p | CPU seconds |\n|---|---|---|---|---|---|")
    for d in dims:
        rng = np.random.default_rng(d)
        p, q = correlated(rng, ROWS, d), rng.normal(size=(ROWS, d))
        fresh = correlated(rng, FRESH, d), rng.normal(size=(FRESH, d))
        spread = [truth(x).std() for x in fresh]
        print(f"| {d} | (spread of the truth) | {spread[0]:.2f} | {spread[1]:.2f} | | |", flush=True)
        for name, method in methods.items():
            start = time.process_time()
            ratio = method(p, q)
            used = time.process_time() - start
            errors = [np.sqrt(np.mean((ratio.log_ratio(x) - truth(x)) ** 2)) for x in fresh]
            se = ratio.log_ratio_and_error(fresh[0]).se.mean()
            print(f"| {d} | {name} | {errors[0]:.2f} | {errors[1]:.2f} | {se:.2f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
