"""A continuous flow in three steps: flow matching, maximum likelihood from there, and a fast student.

Flow matching regresses a velocity on straight lines from data to noise, without solving anything. The likelihood of the
same network is exact, so it can be polished by maximum likelihood. Draws and densities still cost a solution each; a
coupling flow that learns from draws of the polished one answers in one pass, and the divergence of the two is measured.

    python examples/continuous_pipeline.py
"""

import tempfile
from pathlib import Path

import torch

import bijectory as bj


def main(epochs: int = 60) -> dict[str, float]:
    """Fit, polish, distil; return held-out nats of each stage, the divergence and the speed-ups."""
    rows = bj.TwoMoons().sample(4000, generator=torch.Generator().manual_seed(0)).numpy()
    short = {"progress": False, "seed": 0}
    with tempfile.TemporaryDirectory() as work:
        matched, polished, fast = (Path(work) / name for name in ("matched", "polished", "fast"))
        config = bj.FitConfig(epochs=epochs, lr=1e-2, ema_decay=0.99, **short)
        first = bj.fit_table(rows, recipe="cfm", config=config, out=matched, audit=False)
        config = bj.FitConfig(epochs=max(1, epochs // 6), lr=2e-3, **short)
        second = bj.fit_table(rows, start=matched, config=config, out=polished, audit=False)
        config = bj.FitConfig(epochs=max(1, epochs // 6), batch_size=512, lr=3e-3, **short)
        _, found = bj.distill_table(polished, out=fast, recipe="nsf", draws=20_000, config=config)
        student = bj.load_metadata(fast)["scores"]["test"]
    stages = {"matched": first.scores["test"], "polished": second.scores["test"], "student": student}
    for name, score in stages.items():
        print(f"{name:9} {score['log_likelihood']:.3f} ± {score['standard_error']:.3f} nats a held-out row")
    print(f"solver    {second.solver}")
    print(found)
    answer = {name: score["log_likelihood"] for name, score in stages.items()}
    return answer | {"divergence": found.divergence, "speedup": found.sampling_speedup}


if __name__ == "__main__":
    main()
