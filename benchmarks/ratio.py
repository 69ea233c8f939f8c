"""Log-density ratios against the truth: two normal densities in 2, 10 and 50 dimensions, and whether the errors are honest.

p has pairs of columns with correlation 0.8, q is standard normal: the columns by themselves say nothing. KL(p | q) is
0.51 nats a pair. Every estimator sees the same rows of each; errors are root mean squares over 1,000 fresh rows of p and of
q, in nats, over several pairs of tables. "Held" is the share of these rows whose error is below one and two claimed errors.

    python benchmarks/ratio.py                            # minutes of one core; prints a table of docs/ratio.md
    python benchmarks/ratio.py --rows 20000 --repeats 2
"""

import argparse
import time
import warnings

import numpy as np

import bijectory as bj
from bijectory.apps.ratio import DensityRatio, FlowRatio, fit_ratio

RHO, FRESH = 0.8, 1_000


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


def by(**words: object) -> object:
    return lambda p, q, seed: fit_ratio(p, q, seed=seed, **words)


METHODS = {
    "discriminant": by(classifier="discriminant"),
    "quadratic logistic regression": by(classifier="quadratic"),
    "telescoping, 4 discriminants": by(classifier="discriminant", method="telescoping"),
    "telescoping, 4 quadratic bridges": by(classifier="quadratic", method="telescoping"),
    "auto": by(),
    "boosted trees, calibrated": by(classifier="boosting"),
    "two flows (real_nvp, 4 layers)": lambda p, q, seed: flows(p, q, 2, seed),
}


def figures(ratio: DensityRatio, x: np.ndarray) -> list[float]:
    found = ratio.log_ratio_and_error(x)
    error = np.abs(found.value - truth(x))
    return [np.mean(error**2), np.mean(found.se**2), np.mean(error < found.se), np.mean(error < 2 * found.se)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dims", type=int, nargs="*", default=[2, 10, 50])
    parser.add_argument("--rows", type=int, nargs="*", default=[2_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=[""], help="part of the names of the estimators that are run")
    asked = parser.parse_args()
    methods = {name: m for name, m in METHODS.items() if any(part in name for part in asked.methods)}
    warnings.simplefilter("ignore", bj.DataWarning)
    print(
        "| d | rows | estimator | error on p | claimed | held at 1, 2 | error on q | claimed | held at 1, 2 | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for d in asked.dims:
        for rows in asked.rows:
            spread = [truth(x).std() for x in (correlated(np.random.default_rng(0), 9999, d), _normal(0, 9999, d))]
            print(f"| {d} | {rows} | (spread of the truth) | {spread[0]:.2f} | | | {spread[1]:.2f} | | | |", flush=True)
            for name, method in methods.items():
                start, found = time.process_time(), []
                for seed in range(asked.repeats):
                    rng = np.random.default_rng([d, seed])
                    p, q = correlated(rng, rows, d), rng.normal(size=(rows, d))
                    ratio = method(p, q, seed)
                    found.append([figures(ratio, x) for x in (correlated(rng, FRESH, d), _normal(seed + 1, FRESH, d))])
                used = (time.process_time() - start) / asked.repeats
                cells = [
                    f"{a**0.5:.2f} | {b**0.5:.2f} | {one:.0%}, {two:.0%}" for a, b, one, two in np.mean(found, axis=0)
                ]
                print(f"| {d} | {rows} | {name} | {' | '.join(cells)} | {used:.1f} |", flush=True)


def _normal(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


if __name__ == "__main__":
    main()
