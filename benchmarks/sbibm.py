"""C2ST on tasks of the simulation-based inference benchmark: `fit_npe` with its defaults against the published NPE.

    python benchmarks/sbibm.py --data DIR [--simulations 1000 10000] [--observations 10] [--draws 10000] [--out results.json]

DIR holds `<task>/files/num_observation_k/`: the observation and 10,000 draws of the reference posterior, as the package
`sbibm` (MIT licence) ships them. One amortised fit for each task and number of simulations serves all observations. The
simulators are written from the paper: Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021, arXiv:2101.04653, appendix T; the
published figures are those of its NPE (one round). C2ST: accuracy of a classifier between draws and reference, 0.5 is best:
scikit-learn's MLPClassifier, two hidden layers of 10 x dimensions ReLU units, five folds, both sets standardised by the
reference, in the single precision of sbibm's tensors. The fits come first and leave their draws beside the results, then the
classifiers, which take most of the time. Interrupted, it goes on where it was.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from torch.distributions import Independent, Normal

from bijectory.apps.posterior import Prior, box_uniform, fit_npe, rank, sbc, simulate

PUBLISHED = {
    "two_moons": {1000: 0.725, 10_000: 0.606},
    "gaussian_linear": {1000: 0.694, 10_000: 0.552},
    "gaussian_mixture": {1000: 0.731, 10_000: 0.661},
}


def two_moons(theta: torch.Tensor) -> torch.Tensor:
    """A half ring of radius N(0.1, 0.01), moved by the parameters (T.8)."""
    angle = math.pi * (torch.rand(len(theta)) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta))
    ring = torch.stack((radius * angle.cos() + 0.25, radius * angle.sin()), 1)
    a, b = theta.T
    return ring + torch.stack((-(a + b).abs(), b - a), 1) / math.sqrt(2)


def gaussian_linear(theta: torch.Tensor) -> torch.Tensor:
    """Ten means, variance 0.1 (T.1)."""
    return theta + math.sqrt(0.1) * torch.randn(theta.shape)


def gaussian_mixture(theta: torch.Tensor) -> torch.Tensor:
    """One mean, deviation 1 or 0.1 (T.7)."""
    wide = torch.rand(len(theta), 1) < 0.5
    return theta + torch.where(wide, 1.0, 0.1) * torch.randn(theta.shape)


TASKS = {
    "two_moons": (box_uniform([-1.0] * 2, [1.0] * 2), two_moons),
    "gaussian_linear": (
        Prior(Independent(Normal(torch.zeros(10), math.sqrt(0.1) * torch.ones(10)), 1)),
        gaussian_linear,
    ),
    "gaussian_mixture": (box_uniform([-10.0] * 2, [10.0] * 2), gaussian_mixture),
}


def c2st(reference: np.ndarray, draws: np.ndarray, seed: int = 1) -> float:
    """Cross-validated accuracy of telling the two sets apart."""
    loc, scale = reference.mean(0), reference.std(0)
    x = np.concatenate([(reference - loc) / scale, (draws - loc) / scale])
    x = x.astype(np.float32)
    y = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * x.shape[1]
    net = MLPClassifier((width, width), activation="relu", max_iter=1000, solver="adam", random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(cross_val_score(net, x, y, cv=folds, scoring="accuracy").mean())


def observation(data: Path, task: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The data and the reference draws."""
    folder = data / task / "files" / f"num_observation_{number}"
    files = folder / "observation.csv", folder / "reference_posterior_samples.csv.bz2"
    x, reference = (pd.read_csv(file).to_numpy() for file in files)
    return x[0], reference


def fit(task: str, n: int, args: argparse.Namespace) -> dict:
    """One amortised fit, its calibration, and the draws for each observation in a file of its own."""
    prior, simulator = TASKS[task]
    start = time.process_time()
    fitted = fit_npe(simulate(prior, simulator, n, seed=args.seed), prior)
    seconds = round(time.process_time() - start, 1)
    start = time.process_time()
    for k in range(1, args.observations + 1):
        x, _ = observation(args.data, task, k)
        drawn = fitted.posterior.sample(args.draws, x, seed=k).numpy()
        np.save(drawn_file(args.out, task, n, args.seed, k), drawn)
    sampling = round(time.process_time() - start, 1)
    check = sbc(rank(fitted.posterior, simulate(prior, simulator, 1000, seed=args.seed + 10**6)))
    return {
        "seconds": seconds,
        "sampling": sampling,
        "epochs": [fitted.result.best_epoch, len(fitted.result.history)],
        "sbc": {name: part.ks_p for name, part in check.parts.items()},
        "c2st": {},
    }


def drawn_file(out: Path, task: str, n: int, seed: int, k: int) -> Path:
    """Where the draws for one observation lie, beside the results."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{task}_{n}_{seed}_{k}.npy"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--simulations", nargs="+", type=int, default=[1000, 10_000])
    parser.add_argument("--observations", type=int, default=10)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sbibm.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    cells = [(task, n, f"{task} {n} seed {args.seed}") for n in args.simulations for task in args.tasks]
    for task, n, name in cells:
        if name not in found:
            found[name] = fit(task, n, args)
            args.out.write_text(json.dumps(found, indent=1))
            print(name, found[name], flush=True)
    for k in range(1, args.observations + 1):
        for task, n, name in cells:
            if str(k) in found[name]["c2st"]:
                continue
            reference = observation(args.data, task, k)[1][: args.draws]
            drawn = np.load(drawn_file(args.out, task, n, args.seed, k))
            found[name]["c2st"][str(k)] = round(c2st(reference, drawn), 4)
            args.out.write_text(json.dumps(found, indent=1))
            print(name, "observation", k, "C2ST", found[name]["c2st"][str(k)], flush=True)
    print("| task | simulations | C2ST, mean of observations | published NPE | least SBC p | fit, s of one core |")
    print("|---|---|---|---|---|---|")
    for task, n, name in cells:
        entry = found[name]
        mean, p = np.mean(list(entry["c2st"].values())), min(entry["sbc"].values())
        rest = f"{PUBLISHED[task].get(n, math.nan)} | {p:.2g} | {entry['seconds']}"
        print(f"| {task} | {n} | {mean:.3f} ({len(entry['c2st'])}) | {rest} |")


if __name__ == "__main__":
    main()
