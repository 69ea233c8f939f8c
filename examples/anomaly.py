"""Rows that do not belong: tumours of a kind that was never seen, and cells that were swapped.

    python examples/anomaly.py

Rows of the breast-cancer table of scikit-learn (UCI, Wolberg, Street, Mangasarian 1995): ten means of measurements of cell
nuclei. A flow learns benign tumours only. Then it judges tumours of both kinds (the malignant ones are the anomalies), and
benign ones in which one value was exchanged for that of another benign tumour: nothing is wrong with the value but its
company, and the column must be named. Isolation forests and the local outlier factor are fitted to the same rows.
"""

import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from bijectory import FitConfig
from bijectory.apps import Detector, fit_table
from bijectory.apps.anomaly import auroc
from bijectory.tables import DataWarning

FPR = 0.05


def main(repeats: int = 5) -> dict[str, float]:
    warnings.simplefilter("ignore", DataWarning)  # the rows are few: known
    data = load_breast_cancer(as_frame=True)
    table = data.data.filter(like="mean ")
    benign, malignant = table[data.target == 1], table[data.target == 0]
    found: dict[str, list[float]] = {}
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        mixed = benign.iloc[rng.permutation(len(benign))]
        ordinary, held_out, rest = mixed[:67], mixed[67:167], mixed[167:]
        config = FitConfig(seed=seed, batch_size=32, lr=3e-3, patience=20, progress=False)
        model = fit_table(
            rest, recipe="maf", recipe_args={"layers": 2, "hidden": (16,)}, test_fraction=0.0, config=config
        ).model
        detector = Detector(model, held_out)

        swapped, columns = ordinary.copy(), rng.integers(0, table.shape[1], len(ordinary))
        for row, column in enumerate(columns):
            swapped.iloc[row, column] = rest.iloc[rng.integers(len(rest)), column]

        scale = StandardScaler().fit(rest)
        forest = IsolationForest(random_state=seed).fit(rest.to_numpy())
        lof = LocalOutlierFactor(novelty=True).fit(scale.transform(rest))
        methods = {
            "flow": detector.score,
            "isolation forest": lambda x, forest=forest: -forest.score_samples(x.to_numpy()),
            "local outlier factor": lambda x, lof=lof, scale=scale: -lof.score_samples(scale.transform(x)),
        }
        for kind, strange in (("malignant", malignant), ("swapped", swapped)):
            y = np.r_[np.zeros(len(ordinary)), np.ones(len(strange))]
            for name, score in methods.items():
                area, _ = auroc(y, np.r_[score(ordinary), score(strange)], resamples=0)
                found.setdefault(f"{kind}, {name}", []).append(area)
        flagged = detector.flag(swapped, FPR)
        blamed = detector.explain(swapped[flagged]).ranking()[0].to_numpy()
        right = blamed == table.columns.to_numpy()[columns[flagged]]
        found.setdefault("false alarms", []).append(float(detector.flag(ordinary, FPR).mean()))
        found.setdefault("malignant flagged", []).append(float(detector.flag(malignant, FPR).mean()))
        found.setdefault("swapped flagged", []).append(float(flagged.mean()))
        found.setdefault("right column blamed", []).append(float(right.mean()))
    print(f"AUROC and shares, means of {repeats} repeats (lowest, highest)")
    for name, values in found.items():
        print(f"{name:34} {np.mean(values):.3f} ({min(values):.3f}, {max(values):.3f})")
    print(f"\nswapped rows that are flagged at a rate of {FPR:g}, and why:")
    print("\n".join(detector.explain(swapped[flagged]).text(1)[:3]))
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
