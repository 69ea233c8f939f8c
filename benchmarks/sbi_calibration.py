"""Do the checks find an overconfident posterior, and does recalibration repair it? On the tasks of `sbibm.py`.

    python benchmarks/sbi_calibration.py [--simulations 1000] [--narrow 0.7] [--out calibration.json]

`fit_npe` with its defaults; then the same posterior with the latents of every member shrunk to a part, which makes it too
narrow; then that, recalibrated with 500 held-out simulations. SBC (least p of a parameter, Bonferroni), expected coverage
and TARP of each on 500 further simulations, which serve nothing else. Interrupted, it goes on where it was.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from sbibm import TASKS

from bijectory import Chain, Ensemble, Flow, Standardize
from bijectory.apps.posterior import (
    NeuralPosterior,
    Simulations,
    coverage,
    fit_npe,
    rank,
    recalibrate,
    sbc,
    simulate,
    tarp,
)


def narrowed(posterior: NeuralPosterior, part: float) -> NeuralPosterior:
    """The posterior whose latents have a deviation of ``part``."""
    d = posterior.prior.features
    shrink = Standardize(d, [0.0] * d, [part] * d).double()
    members = [Flow(Chain(*m.transform, shrink), m.base, m.embed) for m in posterior.density.members]
    return NeuralPosterior(Ensemble(*members), posterior.prior, posterior.event_shape)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--narrow", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("calibration.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for task in args.tasks:
        if task in found:
            continue
        prior, simulator = TASKS[task]
        fitted = fit_npe(simulate(prior, simulator, args.simulations, seed=args.seed), prior).posterior
        held = simulate(prior, simulator, 1000, seed=args.seed + 10**6)
        first, last = Simulations(held.theta[:500], held.x[:500]), Simulations(held.theta[500:], held.x[500:])
        wrong, start = narrowed(fitted, args.narrow), time.process_time()
        repaired = recalibrate(wrong, first)
        seconds, entry = time.process_time() - start, {}
        for name, posterior in (("as fitted", fitted), ("narrowed", wrong), ("recalibrated", repaired)):
            ranked = rank(posterior, last)
            entry[name] = {c.name: [c.p, c.ok, c.lean] for c in (sbc(ranked), coverage(ranked), tarp(ranked))}
        found[task] = {"seconds": round(seconds, 1), "checks": entry}
        args.out.write_text(json.dumps(found, indent=1))
        print(task, found[task], flush=True)
    print("| task | posterior | SBC p | coverage p | TARP p |\n|---|---|---|---|---|")
    for task, entry in found.items():
        for name, checks in entry["checks"].items():
            values = " | ".join(f"{p:.2g}{'' if ok else f', fails: {lean}'}" for p, ok, lean in checks.values())
            print(f"| {task} | {name} | {values} |")


if __name__ == "__main__":
    main()
