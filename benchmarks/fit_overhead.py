"""What `fit` costs beside its steps: CPU time of its loop against the bare steps of the same model, in turns.

    python benchmarks/fit_overhead.py [--rows 20000] [--steps 7100] [--compile always] [--inside]

The bare step is what anybody would write: a batch, loss, backward, norm of the gradients and whether it is finite, clipping,
fused AdamW. The core is that without norm and clipping: loss, backward, ``optimizer.step()``. All train the same number of
steps, in rounds that take turns. What `fit` does beside them: the order of the rows, guard, clipping, the rate, counters,
callbacks, and, where ``--whole`` asks for it, validation (a tenth of the rows, once an epoch) and a run folder. With
``--profile`` it says where that time goes.

On a busy machine two runs of the same steps differ by ten percent. ``--inside`` looks within one fit, with validation and a
run folder: what passes outside loss, backward pass, gradient norm and optimiser, over what passes inside. Its spread is a
tenth of a percent, and the clocks themselves are counted as overhead.
"""

import argparse
import contextlib
import copy
import cProfile
import io
import pstats
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

import bijectory as bj
from bijectory.training.fit import Loop
from bijectory.training.gradients import Gradients
from bijectory.training.update import Update
from bijectory.transforms.chain import use_native


def models() -> dict[str, bj.Flow]:
    """From tiny to the default of `bijectory fit`."""
    torch.manual_seed(0)
    return {
        "real_nvp, 1 layer, hidden 16": bj.real_nvp(2, layers=1, hidden=(16,)),
        "real_nvp, 2 layers, hidden 32": bj.real_nvp(2, layers=2, hidden=(32,)),
        "real_nvp, defaults": bj.real_nvp(6),
        "maf, defaults": bj.maf(6),
        "nsf, defaults": bj.nsf(6),
    }


def bare(model: bj.Flow, x: torch.Tensor, steps: int, o: argparse.Namespace, *, guarded: bool) -> None:
    """The steps alone."""
    if o.compile == "always":
        use_native(model)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, 1e-3, weight_decay=0.0, fused=True)
    for k in range(steps):
        start = k * o.batch % (len(x) - o.batch)
        loss = -model.log_prob(x[start : start + o.batch]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if guarded:
            norm = torch.nn.utils.get_total_norm([p.grad for p in params])
            if not bool((loss.detach() * 0 + norm).isfinite()):
                continue
            torch.nn.utils.clip_grads_with_norm_(params, 5.0, norm)
        optimizer.step()


def whole(model: bj.Flow, x: torch.Tensor, steps: int, o: argparse.Namespace, folder: Path) -> None:
    """The same steps by `fit`."""
    part = 0.1 if o.whole else 0.0
    epochs = max(1, round(steps / per_epoch(o)))
    config = bj.FitConfig(epochs=epochs, batch_size=o.batch, progress=False, patience=None, validation_fraction=part)
    bj.fit(model, x, config=config.replace(compile=o.compile, out=folder if o.whole else None))


def inside(model: bj.Flow, x: torch.Tensor, steps: int, o: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of one fit: its steps, its validations, and all of it."""
    spent = {"step": 0.0, "validation": 0.0}

    def watched(owner: type, name: str, key: str) -> mock._patch:
        real = getattr(owner, name)

        def call(*args: object, **more: object) -> object:
            start = time.process_time()
            try:
                return real(*args, **more)
            finally:
                spent[key] += time.process_time() - start

        return mock.patch.object(owner, name, call)

    clocks = (Gradients, "plain", "step"), (Update, "step", "step"), (Loop, "validate", "validation")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for clock in clocks:
            stack.enter_context(watched(*clock))
        start = time.process_time()
        whole(model, x, steps, o, Path(folder))
        return spent | {"all": time.process_time() - start}


def print_inside(name: str, model: bj.Flow, x: torch.Tensor, steps: int, o: argparse.Namespace) -> None:
    """A line of the table of ``--inside``."""
    found = [inside(copy.deepcopy(model), x, steps, o) for _ in range(o.rounds)]
    beside = [f["all"] / f["step"] - 1 for f in found]
    share = statistics.median(f["validation"] / f["step"] for f in found)
    step = statistics.median(f["step"] for f in found) / steps
    cells = f"{step * 1e3:.2f} | {statistics.median(beside):.1%} ({min(beside):.1%} to {max(beside):.1%}) | {share:.1%}"
    print(f"| {name} | {cells} |", flush=True)


def per_epoch(o: argparse.Namespace) -> int:
    """Steps of an epoch."""
    return -(-int(o.rows * (0.9 if o.whole else 1.0)) // o.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--steps", type=int, help="of a fit; by default 700, with --inside those of `FitConfig`")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", choices=["never", "always"], default="never")
    parser.add_argument("--whole", action="store_true", help="with validation and a run folder")
    parser.add_argument("--profile", help="start of a model's name: print where the time of its fit goes")
    parser.add_argument("--inside", action="store_true", help="look within one fit, with validation and a run folder")
    o = parser.parse_args()
    o.whole |= o.inside
    torch.set_num_threads(1)
    asked = o.steps or (bj.FitConfig().total_steps(per_epoch(o)) if o.inside else 700)
    steps = max(1, round(asked / per_epoch(o))) * per_epoch(o)
    if o.inside:
        print(f"batches of {o.batch}, {steps} steps, compile={o.compile}\n")
        print("| model | step, ms | beside the steps | of which validation |\n|---|---|---|---|")
    elif o.profile is None:
        print(f"batches of {o.batch}, {steps} steps, compile={o.compile}\n")
        print(
            "| model | core, ms | bare step, ms | step of `fit`, ms | over core | over bare |\n|---|---|---|---|---|---|"
        )
    for name, model in models().items():
        x = torch.randn(o.rows, *model.event_shape, generator=torch.Generator().manual_seed(1))
        if o.inside:
            print_inside(name, model, x, steps, o)
            continue
        if o.profile is not None:
            if name.startswith(o.profile):
                profile(model, x, steps, o)
            continue
        times: dict[str, list[float]] = {"core": [], "bare": [], "fit": []}
        for _ in range(o.rounds):
            for way in times:
                copied = copy.deepcopy(model)
                with tempfile.TemporaryDirectory() as folder:
                    start = time.process_time()
                    if way == "fit":
                        whole(copied, x, steps, o, Path(folder))
                    else:
                        bare(copied, x, steps, o, guarded=way == "bare")
                    times[way].append((time.process_time() - start) / steps)
        cells = [f"{statistics.median(t) * 1e3:.3f}" for t in times.values()]
        for way in ("core", "bare"):
            shares = [a / b - 1 for a, b in zip(times["fit"], times[way], strict=True)]
            cells.append(f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def profile(model: bj.Flow, x: torch.Tensor, steps: int, o: argparse.Namespace) -> None:
    """Print the functions of a fit by their own time."""
    with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as profiler:
        whole(model, x, steps, o, Path(folder))
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(35)
    print(text.getvalue())


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
