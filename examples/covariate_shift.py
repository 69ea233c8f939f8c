"""Covariate shift: labels for large tumours mostly, predictions wanted for all.

Rows of the breast-cancer table of scikit-learn (UCI, Wolberg, Street, Mangasarian 1995). A straight line is to predict the
worst area of a cell nucleus from its mean radius; the truth is curved, so the best line depends on which radii count. Labels
are known for rows that were chosen in favour of large radii. The density ratio of wanted to labelled rows, estimated from
columns alone, weights the labelled rows so that they stand for the wanted ones, and the error on the wanted rows falls.

    python examples/covariate_shift.py
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LinearRegression

from bijectory.apps.ratio import fit_ratio, ratio_weights, two_sample_test

COLUMNS = ["mean radius"]


def main(repeats: int = 8) -> tuple[float, float]:
    table = load_breast_cancer(as_frame=True).data
    errors, sizes = [], []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        mixed = table.iloc[rng.permutation(len(table))]
        wanted, rest = mixed[:280], mixed[280:]
        large = 1 / (1 + np.exp((15 - rest["mean radius"]) / 1.5))
        labelled = rest[rng.random(len(rest)) < np.maximum(large, 0.05)]
        ratio = fit_ratio(wanted[COLUMNS], labelled[COLUMNS], classifier="linear", members=2, seed=seed)
        found = ratio_weights(ratio, labelled[COLUMNS])
        sizes.append((len(labelled), found.ess))
        x, y = labelled[["mean radius"]], labelled["worst area"]
        lines = LinearRegression().fit(x, y), LinearRegression().fit(x, y, sample_weight=found.weights)
        truth = wanted["worst area"]
        errors.append([np.sqrt(np.mean((line.predict(wanted[["mean radius"]]) - truth) ** 2)) for line in lines])
    plain, weighted = np.mean(errors, axis=0)
    test = two_sample_test(wanted[COLUMNS], labelled[COLUMNS], classifier="quadratic")
    print(f"wanted and labelled rows differ: p = {test.p_value:.3f}, AUC = {test.auc:.2f}")
    print("labelled rows {:.0f}, effective after weighting {:.0f}".format(*np.mean(sizes, axis=0)))
    print(f"error on the wanted rows: unweighted {plain:.1f}, weighted {weighted:.1f} (of {repeats} repeats, means)")
    return float(plain), float(weighted)


if __name__ == "__main__":
    main()
