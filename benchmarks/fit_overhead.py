"""What `fit` costs beside its steps: CPU time of its loop against the bare steps of the same model, in turns.

    python benchmarks/fit_overhead.py [--rows 20000] [--steps 700]

The bare step is what anybody would write: a batch, loss, backward, norm of the gradients and whether it is finite, clipping,
fused AdamW. Both train the same number of steps, in rounds that take turns; the difference is the order of the rows, the
look-up of the rate, counters, callbacks, validation (a tenth of the rows, once an epoch) and the checkpoints. The last table
says where that time goes.
"""

import argparse
import copy
import cProfile
import io
import pstats
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch

import bijectory as bj


def models() -> dict[str, bj.Flow]:
    """From tiny to the default of `bijectory fit`."""
    torch.manual_seed(0)
    return {
        "real_nvp, 1 layer, hidden 16": bj.real_nvp(2, layers=1, hidden=(16,)),
        "real_nvp, 2 layers, hidden 32": bj.real_nvp(2, layers=2, hidden=(32,)),
        "real_nvp, defaults": bj.real_nvp(6),
        "nsf, defaults": bj.nsf(6),
    }


def bare(model: bj.Flow, x: torch.Tensor, steps: int, batch: int) -> None:
    """The steps alone."""
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, 1e-3, weight_decay=0.0, fused=True)
    for k in range(steps):
        start = k * batch % (len(x) - batch)
        loss = -model.log_prob(x[start : start + batch]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        if bool((loss.detach() * 0 + norm).isfinite()):
            torch.nn.utils.clip_grads_with_norm_(params, 5.0, norm)
            optimizer.step()


def whole(model: bj.Flow, x: torch.Tensor, steps: int, batch: int, folder: Path) -> None:
    """The same steps by `fit`, with validation and a run folder."""
    epochs = max(1, round(steps / -(-int(len(x) * 0.9) // batch)))
    config = bj.FitConfig(epochs=epochs, batch_size=batch, progress=False, patience=None, out=folder)
    bj.fit(model, x, config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", help="start of a model's name: print where the time of its fit goes")
    o = parser.parse_args()
    torch.set_num_threads(1)
    per_epoch = -(-int(o.rows * 0.9) // o.batch)
    steps = max(1, round(o.steps / per_epoch)) * per_epoch
    if o.profile is None:
        print("| model | bare step, ms | step of `fit`, ms | overhead |\n|---|---|---|---|")
    for name, model in models().items():
        x = torch.randn(o.rows, *model.event_shape, generator=torch.Generator().manual_seed(1))
        if o.profile is not None:
            if name.startswith(o.profile):
                profile(model, x, steps, o.batch)
            continue
        times: dict[str, list[float]] = {"bare": [], "fit": []}
        for _ in range(o.rounds):
            for way in times:
                copied = copy.deepcopy(model)
                with tempfile.TemporaryDirectory() as folder:
                    start = time.process_time()
                    if way == "bare":
                        bare(copied, x, steps, o.batch)
                    else:
                        whole(copied, x, steps, o.batch, Path(folder))
                    times[way].append((time.process_time() - start) / steps)
        ours, plain = statistics.median(times["fit"]), statistics.median(times["bare"])
        shares = [a / b - 1 for a, b in zip(times["fit"], times["bare"], strict=True)]
        spread = f"{min(shares):.1%} to {max(shares):.1%}"
        print(f"| {name} | {plain * 1e3:.3f} | {ours * 1e3:.3f} | {ours / plain - 1:.1%} ({spread}) |", flush=True)


def profile(model: bj.Flow, x: torch.Tensor, steps: int, batch: int) -> None:
    """Print the functions of a fit by their own time."""
    with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as profiler:
        whole(model, x, steps, batch, Path(folder))
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(35)
    print(text.getvalue())


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
