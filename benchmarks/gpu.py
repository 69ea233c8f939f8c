"""What compiled kernels, captured steps and bfloat16 gain on one GPU: log-density, training step, draws, memory.

    python benchmarks/gpu.py [--budget 540] [--inductor] [--json out.json]

Every variant of a flow must first give the log-densities and the gradients of the same flow in float64 on the CPU,
within what its precision allows (*error*: the largest difference of log-densities over 1 + their size; *gradient*: norm
of the difference over the norm); one that does not is not timed. Then the variants of a flow are timed in turn, in
rounds, by CUDA events around single calls, the queue empty before each; medians are printed as Markdown, with the
ratios to the plain flow. The training step is that of `fit`: gradients, the guard's look at loss and norm, clipping,
fused AdamW. Draws are from frozen copies, without gradients. *Peak* is the growth of allocated memory from before the
first training step to its highest point, captures included.

Variants: plain; tf32 (plain, with `torch.set_float32_matmul_precision("high")`; all others without TF32 in convolutions
too); kernels (`flow.compiled()`, Triton splines); graph (`kernels`, where there are any, and the training step
captured); bf16 (graph, with `FitConfig(precision="bf16")`); with --inductor also `flow.compiled(backend="inductor")`,
whose compilation may take minutes, which the budget counts.

Without a GPU it says so in one line and ends. `--device cpu --tiny` rehearses the program on a CPU, where there are no
graphs.
"""

import argparse
import contextlib
import copy
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch

import bijectory as bj
from bijectory.objectives import Batch, nll
from bijectory.testing import randomize
from bijectory.training import guard
from bijectory.training.gradients import Gradients
from bijectory.training.update import Update
from bijectory.transforms.chain import has_native

NO_GPU = "no GPU here (torch.cuda.is_available() is False): benchmarks/gpu.py skipped"
CASES = [  # recipe, event, keywords, rows
    ("nsf", 6, {}, (512, 8192)),
    ("nsf", 43, {}, (512, 8192)),
    ("nsf_ar", 6, {}, (512, 8192)),
    ("nsf_ar", 63, {}, (512, 8192)),
    ("real_nvp", 6, {}, (512, 8192)),
    ("real_nvp", 43, {}, (512, 8192)),
    ("maf", 6, {}, (512, 8192)),
    ("maf", 63, {}, (512, 8192)),
    ("glow", (3, 32, 32), {"steps": 4}, (64,)),
]
TINY = [
    ("nsf", 3, {"layers": 2, "hidden": (8,), "bins": 4}, (16,)),
    ("glow", (1, 4, 4), {"steps": 1, "hidden": 8}, (4,)),
]
CHECKED = 32  # rows that are compared with float64
ALLOWED = {"full": (1e-4, 1e-2), "reduced": (5e-2, 0.3)}  # errors of log-densities and of gradients
ROUNDS, LEAST, SECONDS = 3, 5, 0.3  # calls of a variant in a round: at least so many, about so long


class Variant:
    """A flow and how it is run."""

    def __init__(self, name: str, flow: bj.Flow, x: torch.Tensor) -> None:
        self.name, self.x = name, x
        self.capture, self.precision = name in ("graph", "bf16"), "bf16" if name == "bf16" else "full"
        self.reduced = name in ("tf32", "bf16")
        self.flow = copy.deepcopy(flow)
        if name == "inductor":
            self.flow = self.flow.compiled(backend="inductor")
        elif name in ("kernels", "graph", "bf16") and has_native(flow):
            self.flow = self.flow.compiled()
        self.frozen = self.flow.frozen()
        self.params = [p for p in self.flow.parameters() if p.requires_grad]
        self.restart()

    def restart(self) -> None:
        """Fresh gradients and moments; the capture is made by the first step."""
        self.optimizer = torch.optim.AdamW(self.params, 1e-6, weight_decay=0.0, fused=True)
        update = Update(self.optimizer, self.params)
        self.gradients = Gradients(self.flow, self.params, Batch(self.x), self.precision, update)

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """TF32 in products and convolutions for the tf32 variant, and nowhere else (torch allows it in convolutions)."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def log_prob(self) -> torch.Tensor:
        with torch.no_grad(), self.gradients.arithmetic():
            return self.frozen.log_prob(self.x)

    def sample(self) -> torch.Tensor:
        with self.gradients.arithmetic():
            return self.frozen.sample(len(self.x))

    def step(self) -> None:
        loss, norm = self.gradients(nll, Batch(self.x), 1.0, capture=self.capture)
        if all(math.isfinite(value) for value in guard.values(loss, norm)):
            torch.nn.utils.clip_grads_with_norm_(self.params, 5.0, norm)
            self.optimizer.step()

    def errors(self, truth: torch.Tensor, slopes: torch.Tensor) -> tuple[float, float]:
        """Against float64: of log-densities, and of the gradients of a replayed step if steps are captured."""
        with self.arithmetic():
            found = self.log_prob()[:CHECKED].double().cpu()
            for _ in range(2):
                self.gradients(nll, Batch(self.x), 1.0, capture=self.capture)
            if self.capture and self.gradients.graph is None:
                return float("nan"), float("nan")
        ours = torch.cat([p.grad.double().cpu().flatten() for p in self.params])
        error = ((found - truth).abs() / (1 + truth.abs())).max().item()
        return error, ((ours - slopes).norm() / slopes.norm()).item()

    def right(self, errors: tuple[float, float]) -> bool:
        return all(e <= a for e, a in zip(errors, ALLOWED["reduced" if self.reduced else "full"], strict=True))

    def peak(self) -> float | None:
        """Megabytes by which allocated memory grows in the first steps."""
        if not self.x.is_cuda:
            return None
        self.restart()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with self.arithmetic():
            for _ in range(2):
                self.step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 2**20


def names(device: str, flow: bj.Flow, inductor: bool) -> list[str]:
    on_gpu = device == "cuda"
    found = ["plain", *(["tf32"] if on_gpu else []), *(["kernels"] if has_native(flow) else [])]
    return [*found, *(["graph", "bf16"] if on_gpu else []), *(["inductor"] if inductor else [])]


def rows_of(event: int | tuple[int, ...], n: int) -> torch.Tensor:
    """Rows that the flows take: normal numbers, or dequantised pixels."""
    g = torch.Generator().manual_seed(0)
    if isinstance(event, int):
        return torch.randn(n, event, generator=g)
    return torch.randint(0, 256, (n, *event), generator=g) + torch.rand(n, *event, generator=g)


def truth(flow: bj.Flow, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-densities of the first rows and gradients of the mean over all, in float64 on the CPU."""
    exact = copy.deepcopy(flow).cpu().double()
    params = [p for p in exact.parameters() if p.requires_grad]
    for part in x.double().split(512):
        (-exact.log_prob(part).sum() / len(x)).backward()
    with torch.no_grad():
        return exact.log_prob(x[:CHECKED].double()), torch.cat([p.grad.flatten() for p in params])


def milliseconds(call: Callable[[], object], device: str, seconds: float) -> list[float]:
    """Of single calls: between events on a GPU, CPU time else."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST or time.perf_counter() - began < seconds:
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            start = time.process_time()
            call()
            times.append((time.process_time() - start) * 1e3)
    return times


def measure(
    recipe: str, event: int | tuple[int, ...], more: dict, rows: int, options: argparse.Namespace
) -> list[dict]:
    """One flow: check its variants, then time them in turn."""
    torch.manual_seed(0)
    flow = randomize(getattr(bj, recipe)(event, **more), scale=0.1)
    x = rows_of(event, rows)
    exact = truth(flow, x)
    flow, x = flow.to(options.device), x.to(options.device)
    made, lines = list[tuple[Variant, dict]](), list[dict]()
    for name in names(options.device, flow, options.inductor):
        line = {"recipe": recipe, "event": event, "rows": rows, "variant": name, "right": False}
        lines.append(line)
        try:
            variant = Variant(name, flow, x)
            line["error"], line["gradient"] = variant.errors(*exact)
            if variant.right((line["error"], line["gradient"])):
                line["peak"], line["right"] = variant.peak(), True
                made.append((variant, line))
        except Exception as problem:  # one variant that fails says so and leaves the others alone
            line["problem"] = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for variant, _ in made:
            with variant.arithmetic():
                for operation in ("log_prob", "step", "sample"):
                    found = milliseconds(getattr(variant, operation), options.device, options.seconds)
                    times.setdefault((variant.name, operation), []).extend(found)
    for variant, line in made:
        line |= {k: statistics.median(times[variant.name, k]) for k in ("log_prob", "step", "sample")}
    return lines


def show(lines: list[dict]) -> Iterator[str]:
    """Markdown: milliseconds, and how many times faster than plain."""
    plain = next((line for line in lines if line["variant"] == "plain"), {})

    def cell(line: dict, operation: str) -> str:
        if operation not in line:
            return ""
        ratio = f" ({plain[operation] / line[operation]:.2f})" if operation in plain and line is not plain else ""
        return f"{line[operation]:.2f}{ratio}"

    for line in lines:
        event = line["event"] if isinstance(line["event"], int) else " x ".join(map(str, line["event"]))
        cells = [f"`{line['recipe']}` {event}", str(line["rows"]), line["variant"]]
        cells += [f"{line[k]:.0e}" if k in line else "" for k in ("error", "gradient")]
        cells += [cell(line, k) for k in ("log_prob", "step", "sample")]
        last = f"{line['peak']:.0f}" if line.get("peak") is not None else ""
        cells.append(last if line["right"] else line.get("problem", "WRONG, not timed"))
        yield "| " + " | ".join(cells) + " |"


HEAD = (
    "| recipe, features | rows | variant | error | gradient | log-density, ms | training step, ms | draws, ms | peak, MB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=540.0, help="seconds after which no other flow is begun")
    parser.add_argument("--inductor", action="store_true", help="also compile in regions with torch.compile")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two tiny flows: a rehearsal")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return 0
    options.seconds = 0.01 if options.tiny else SECONDS
    began, lines, left = time.perf_counter(), [], []
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, a rehearsal"
    print(f"{name}; torch {torch.__version__}; bijectory {bj.__version__}; milliseconds, medians; (times faster)\n")
    print(HEAD, flush=True)
    for recipe, event, more, batches in TINY if options.tiny else CASES:
        for rows in batches:
            if time.perf_counter() - began > options.budget:
                left.append(f"{recipe} {event} at {rows} rows")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                found = measure(recipe, event, more, rows, options)
            lines += found
            print("\n".join(show(found)), flush=True)
    print(
        f"\n{time.perf_counter() - began:.0f} s." + (f" Left out for lack of time: {', '.join(left)}." if left else "")
    )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": name, "torch": torch.__version__, "lines": lines}, file, indent=1)
    return 0 if all(line["right"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
