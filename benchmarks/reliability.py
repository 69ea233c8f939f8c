"""Measure every figure of `docs/reliability.md` and write it there, dated, beside its target and the best peer's.

    python benchmarks/reliability.py [--rows 1 2 13] [--seeds 20] [--list]

Without `--rows` all of them, about fifteen CPU minutes of one thread; a row that is not measured keeps what it had, with its
date. Rows that need the tests (`tests/measures.py`, `tests/test_*.py`) call them, so page and tests cannot disagree.
`--seeds N` repeats the statistical rows 13 to 15 with N seeds and prints the failures. Peers were measured once, on another
day, by the programs of their own; their figures are quoted.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import bijectory as bj  # noqa: E402
import measures as m  # noqa: E402
from bijectory.testing import randomize  # noqa: E402

torch.set_num_threads(1)
PAGE, STORE = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
BEGIN, END = "<!-- measured by make reliability -->", "<!-- end -->"
AFFINE = [n for n in m.STACKS if n not in m.SPLINES]
Answer = tuple[str, bool | None, str]  # figure, whether the target is met (None: not measured), remark
ROWS: dict[int, tuple[str, str, str, Callable[[], Answer]]] = {}


def row(number: int, what: str, target: str, peer: str):
    def add(function):
        ROWS[number] = what, target, peer, function
        return function

    return add


def worst(function, names, *layers_and_more, seeds=3):
    """Largest figure over recipes and seeds, with the recipe."""
    found = [(function(*m.stack(n, *layers_and_more, seed=s)), n) for n in names for s in range(seeds)]
    return max(found, key=lambda f: f[0] if not isinstance(f[0], tuple) else f[0][0])


@row(1, "affine, L=32, default weights: round trip both ways, float32", "≤ 3e-6", "1.7e-6 flowjax, 2.1e-6 zuko MAF")
def _():
    (error, lost), name = worst(m.round_trip, AFFINE, 32)
    return f"{error:.1e} ({name}), {lost} rows lost", error <= 3e-6 and not lost, ""


@row(2, "rational-quadratic splines, the same", "≤ 3e-5", "4.6e-5 / 8e-5 zuko, 6.3e-5 flowjax")
def _():
    (error, lost), name = worst(m.round_trip, m.SPLINES, 32)
    return f"{error:.1e} ({name}), {lost} rows lost", error <= 3e-5 and not lost, ""


@row(
    3,
    "L=64, every architecture",
    "0 rows lost; affine ≤ 1e-5, splines ≤ 1e-4 (AR), 6e-4 (coupling)",
    "no library clean; zuko MAF 3.8e-6",
)
def _():
    figures = {
        n: [m.round_trip(*m.stack(n, layers, seed)) for layers in (64, 128) for seed in range(3)] for n in m.STACKS
    }
    at64 = {n: max(f[0] for f in v[:3]) for n, v in figures.items()}
    at128 = max(f[0] for v in figures.values() for f in v[3:])
    lost = sum(f[1] for v in figures.values() for f in v)
    bound = dict.fromkeys(AFFINE, 1e-5) | {"nsf_ar": 1e-4, "nsf": 6e-4}
    ok = not lost and all(at64[n] <= bound[n] for n in at64)
    affine = max(at64[n] for n in AFFINE)
    text = f"affine {affine:.1e}, AR {at64['nsf_ar']:.1e}, coupling {at64['nsf']:.1e}; L=128 {at128:.1e}"
    return f"{text}; {lost} rows lost", ok, ""


@row(
    4,
    "log-determinant, float32 against float64, L=32",
    "affine ≤ 2e-6, splines ≤ 1.5e-5",
    "1.1e-6; 5.4e-5 flowjax, 7.8e-5 zuko",
)
def _():
    a, s = (worst(m.ladj_against_float64, names, 32) for names in (AFFINE, m.SPLINES))
    return f"{a[0]:.1e} ({a[1]}); {s[0]:.1e} ({s[1]})", a[0] <= 2e-6 and s[0] <= 1.5e-5, ""


@row(5, "log-determinant, float64 against autodiff, L=32", "≤ 1e-12", "4e-15, 1e-13 zuko")
def _():
    def error(flow, x):
        with torch.no_grad():
            for p in flow.parameters():  # away from the identity, and still well conditioned
                p.add_(0.05 * torch.randn_like(p))
        return m.ladj_against_autodiff(flow, x[:3])

    found = [(error(*m.stack(n, 32, hidden=(32,))), n) for n in m.STACKS]
    return "{:.1e} ({})".format(*max(found)), max(found)[0] <= 1e-12, ""


@row(
    6,
    "weights × 2, L=32",
    "bounded layers: 0 rows lost; `check` names the layer of every broken model",
    "0.012 to 0.19 torchflows, others broken",
)
def _():
    init = [m.round_trip(m.scaled(f, k), x) for n in m.STACKS for k in (2, 4) for f, x in [m.stack(n, 32)]]
    lost, broken, named = {}, 0, 0
    for name in m.STACKS:
        for factor in (1, 2, 4):
            flow, x = m.stack(name, 32, hidden=(32,))
            flow = m.scaled(randomize(flow), factor)
            error, rows = m.round_trip(flow, x)
            if rows:
                lost[f"{name} × {factor}"] = rows
            if rows or error > 0.1:
                broken += 1
                audit = flow.check(x)
                named += not audit.ok and audit["round trip of the worst layer"].note.startswith("layer ")
    text = f"default weights × 2 and × 4: {sum(r for _, r in init)} lost, round trip {max(e for e, _ in init):.0e}; "
    text += f"trained-like weights × 1, 2, 4: lost in {', '.join(lost) or 'none'}; named {named} of {broken}"
    remark = "affine scales are bounded one by one (e³), and 32 of them in a row exceed float32 once all weights are "
    remark += "trained-like × 4; splines lose no row"
    return text, not lost and named == broken and not sum(r for _, r in init), remark if lost else ""


@row(
    7,
    "spline, logits of size 1 to 1000, 20,000 splines",
    "0 not finite, backward error ≤ 1 ulp(B), log-det ≤ 2e-6, monotone, in the box",
    "zuko 19 to 275 NaN; nflows loses the batch",
)
def _():
    import test_spline_extremes as e

    bad, backward, ladj_error, outside, decreasing = 0, 0.0, 0.0, 0, 0
    for scale in e.SCALES:
        for tails in e.TAILS:
            grid = e.SplineGrid(8, e.B, tails, double=True)
            x, phi = e.draw(grid, scale)
            for f in e.BOTH:
                y, ladj = f(x, phi, grid)
                exact, exact_ladj = f(x.double(), phi.double(), grid)
                bad += int((~y.isfinite()).sum() + (~ladj.isfinite()).sum())
                outside += int((y.abs() > e.B).sum())
                ladj_error = max(ladj_error, float((ladj - exact_ladj).abs().max()))
                backward = max(backward, float((y - exact).abs().max()) / e.ULP)
            line = torch.linspace(-e.B, e.B, 1000, dtype=torch.float64)[:, None].expand(1000, 200)
            decreasing += int((f(line, phi[:, :200].double().unsqueeze(1), grid)[0].diff(dim=0) <= 0).sum())
    text = (
        f"{bad} not finite, {backward:.2f} ulp, log-det {ladj_error:.1e}, {decreasing} not monotone, {outside} outside"
    )
    return (
        text,
        not (bad or outside or decreasing) and backward <= 1 and ladj_error <= 2e-6,
        'with `precision="float64"`',
    )


@row(8, "a batch against its rows, float32", "≤ 2e-6; estimator 1e-12; CNF ≤ 1e-5", "9.5e-7 flowjax; CNF 3.3e-3 zuko")
def _():
    flows = {n: m.stack(n, 4, features=4) for n in m.STACKS} | {"cnf": (bj.cnf(4).eval(), torch.randn(256, 4))}
    error = {n: m.batch_against_rows(f, x[:64]) for n, (f, x) in flows.items()}
    x = np.random.default_rng(0).normal(size=(100, 3))
    model = bj.apps.FlowDensity(epochs=3, random_state=0).fit(x)
    table = np.abs(model.score_samples(x) - np.array([model.score_samples(r[None])[0] for r in x])).max()
    flat = max((v, k) for k, v in error.items() if k != "cnf")
    text = f"{flat[0]:.1e} ({flat[1]}); estimator {table:.0e}; CNF {error['cnf']:.1e}"
    return text, flat[0] <= 2e-6 and table <= 1e-12 and error["cnf"] <= 1e-5, ""


@row(9, "linear layers with adverse weights", "condition ≤ 1e4, round trip ≤ 1e-4", "0.13 normflows, no warning")
def _():
    condition = error = 0.0
    for build in (bj.LU, bj.QR, bj.Householder, bj.Rotation, bj.MatrixExp):
        layer, g = build(8), torch.Generator().manual_seed(0)
        for scale in (0.3, 1e3, 1e6):
            with torch.no_grad():
                layer.factors.copy_(scale * torch.randn(layer.factors.shape, generator=g))
                condition = max(condition, float(torch.linalg.cond(layer.matrix().double())))
                x = torch.randn(256, 8, generator=g)
                error = max(error, float((layer.inverse(layer.forward(x)[0])[0] - x).abs().max()))
    return f"condition {condition:.0f}, round trip {error:.1e}", condition <= 1e4 and error <= 1e-4, ""


@row(
    10,
    "CNF: log-determinant against autodiff",
    "≤ 1e-5 (exact trace, rtol 1e-6); cap, then a named error",
    "1.3e-4 zuko",
)
def _():
    figures = []
    for steps in (8, None):
        torch.manual_seed(0)
        flow, x = randomize(bj.cnf(4, steps=steps), 0, 0.3).double(), torch.randn(5, 4, dtype=torch.float64)
        jacobian = [torch.autograd.functional.jacobian(lambda v: flow.to_latent(v)[0], row) for row in x]  # noqa: B023
        want = torch.linalg.slogdet(torch.stack(jacobian)).logabsdet
        figures.append(float((flow.to_latent(x)[1] - want).abs().max()))
    text = f"{figures[0]:.1e} (8 steps, the default), {figures[1]:.1e} (adaptive)"
    try:
        wild = bj.Continuous(bj.nets.TimeMLP(2), steps=None, max_steps=2, rtol=1e-12, atol=1e-12)
        randomize(wild, 0, 3.0)(torch.randn(3, 2))
        stopped = False
    except bj.errors.ConvergenceError:
        stopped = True
    return (
        text + ("; the cap raises ConvergenceError" if stopped else "; no error at the cap"),
        max(figures) <= 1e-5 and stopped,
        "",
    )


@row(
    11,
    "residual flow: bias of the log-determinant, round trip",
    "≤ 1e-6 exact; stochastic with its standard error",
    "7e-7, 1.4e-4 normflows",
)
def _():
    torch.manual_seed(0)
    flow = randomize(bj.residual(2, ladj="exact"), 0, 0.3)
    x = torch.randn(256, 2)
    error, (trip, _) = m.ladj_against_float64(flow, x), m.round_trip(flow, x)
    mean, standard = randomize(bj.residual(2, ladj="roulette"), 0, 0.3).log_prob_and_error(x[:5])
    ok = error <= 1e-6 and bool((standard > 0).all() and mean.isfinite().all())
    return (
        f"{error:.1e}, round trip {trip:.1e}; standard errors returned",
        ok,
        "float32 against float64, eight layers, d=2" if not ok else "",
    )


@row(12, "bfloat16 autocast, depth 4, d=4: largest error in nats", "affine ≤ 0.01, splines ≤ 0.05", "0.008, 0.11")
def _():
    error = {n: max(m.bfloat16(*m.stack(n, 4, s, features=4))[1] for s in range(3)) for n in m.STACKS}
    a, s = (max((error[n], n) for n in names) for names in (AFFINE, m.SPLINES))
    ok = a[0] <= 0.01 and s[0] <= 0.05
    return (
        f"{a[0]:.4f} ({a[1]}), {s[0]:.3f} ({s[1]})",
        ok,
        "" if ok else "networks compute in bfloat16, and nothing else; the mean error is below 0.005 everywhere",
    )


def masses(seed=0):
    found = {(n, d): m.mass(m.flow_of(n, d, seed))[0] - 1 for n in m.NAMES for d in (1, 2)}
    return [max((abs(v), n) for (n, d), v in found.items() if d == k) for k in (1, 2)]


@row(13, "mass by adaptive quadrature, every recipe for rows", "1 ± 1e-6 (1-D), 1 ± 1e-4 (2-D)", "1.00000 most")
def _():
    one, two = masses()
    return (
        f"1 ± {one[0]:.0e} ({one[1]}), 1 ± {two[0]:.0e} ({two[1]}), {len(m.NAMES)} recipes",
        one[0] <= 1e-6 and two[0] <= 1e-4,
        "",
    )


@row(14, "Kolmogorov-Smirnov of 20,000 draws, every recipe", "p > 1e-4, before and after training", "p ≥ 0.3")
def _():
    found = [(m.draws_p(m.flow_of(n, d), 1), f"{n}, d={d}") for n in m.NAMES for d in (1, 2)]
    rows = np.random.default_rng(0).normal(size=(500, 1)) ** 3
    flow, before = bj.nsf(1, layers=2, hidden=(16,)), torch.from_numpy(np.arcsinh(rows)).float()
    bj.training.fit(flow, before, config=bj.training.FitConfig(epochs=20, progress=False))
    trained = m.draws_p(flow.double(), 2)
    return (
        f"least p of {len(found)}: {min(found)[0]:.2g} ({min(found)[1]}); after training {trained:.2g}",
        min(found)[0] > 1e-4 and trained > 1e-4,
        "",
    )


@row(15, "E_p[q/p] at n = 1e5 with ESS ≥ 0.3 n", "|z| ≤ 4", "|z| ≤ 2")
def _():
    found = {f"{n}, d={d}": m.overlap(m.flow_of(n, d), 1) for n in m.NAMES for d in (1, 2)}
    judged = {k: abs(z) for k, (z, part) in found.items() if part >= 0.3}
    top = max(judged, key=judged.__getitem__)
    gated = [k for k in found if k not in judged]
    return (
        f"largest |z| {judged[top]:.2f} ({top}); {len(judged)} of {len(found)} have the size",
        judged[top] <= 4,
        f"without a verdict: {'; '.join(gated)}" if gated else "",
    )


@row(16, "SBC, Gaussian-linear, 1000 ranks", "p > 1e-3; the 90 % interval covers 87 to 93 %", "p > 0.05 at 100, sbi")
def _():
    from torch.distributions import Independent, Normal

    from bijectory.apps.posterior import Prior, fit_npe, rank, sbc, simulate

    prior = Prior(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))

    def model(theta):
        return theta + 0.5 * torch.randn(theta.shape)

    config = bj.training.FitConfig(epochs=60, lr=2e-3, patience=10, progress=False)
    fitted = fit_npe(simulate(prior, model, 4000, seed=0), prior, ensemble=1, config=config)
    ranked = rank(fitted.posterior, simulate(prior, model, 1000, seed=1), seed=2)
    u = (ranked.draws < ranked.theta).double().mean(0)
    inside = float(((u > 0.05) & (u < 0.95)).double().mean())
    p = min(part.ks_p for part in sbc(ranked).parts.values())
    return (
        f"least p {p:.2g}; 90 % intervals cover {inside:.1%}",
        p > 1e-3 and 0.87 <= inside <= 0.93,
        "two parameters, 4000 simulations, one network",
    )


@row(17, "scikit-learn's checks", "all, for every estimator", "KernelDensity 48 of 48")
def _():
    from sklearn.utils.estimator_checks import check_estimator

    from bijectory.apps import ConditionalFlow, FlowDensity, FlowOutlier

    quick = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}, "epochs": 3}
    texts, ok = [], True
    for kind in (FlowDensity, FlowOutlier, ConditionalFlow):
        results = check_estimator(kind(**quick), on_fail=None, on_skip=None)
        status = {r["check_name"]: r["status"] for r in results}
        passed = sum(r["status"] == "passed" for r in results)
        rest = sorted({f"{name} {what}" for name, what in status.items() if what != "passed"})
        ok &= all(r["status"] in ("passed", "skipped") for r in results)
        texts.append(f"{kind.__name__} {passed} of {len(results)}" + (f" ({', '.join(rest)[:200]})" if rest else ""))
    return "; ".join(texts), ok, "scikit-learn skips its own array-API check unless SCIPY_ARRAY_API is set"


@row(
    18,
    "vmap, jacrev, compile, export, deepcopy, pickle, double, state_dict",
    "8 of 8 on every architecture",
    "zuko 7, normflows 5",
)
def _():
    from bijectory.testing import densities, maps, transforms
    from bijectory.testing.violation import LawViolation
    from laws.cases import RECIPES

    # deepcopy, pickle and state_dict are one law; the slowest captures (searches for roots, unrolled) are in the slow tier.
    of_flow = (densities.density_captures, densities.density_exports, densities.density_copies)
    of_map = (maps.vmaps, transforms.jacobian, transforms.double_is_float64)
    cases = [
        c
        for c in RECIPES
        if c.name in {*m.STACKS, "planar", "radial", "sylvester", "residual", "cnf", "glow", "tarflow", "bernstein"}
    ]
    import dataclasses

    failed = []
    for case in cases:
        s = case.subject(max(case.contexts), torch.float64)
        t = dataclasses.replace(s, build=lambda s=s: s.build().transform)
        for law, subject in [(law, s) for law in of_flow] + [(law, t) for law in of_map]:
            try:
                law(subject)
            except LawViolation as error:
                failed.append(f"{case.name}: {error}")
    return (
        f"8 of 8 on {len(cases)} recipes" if not failed else "; ".join(failed)[:300],
        not failed,
        "all 46 cases: `tests/laws`",
    )


def tests(*words: str) -> tuple[int, int]:
    """Passed and failed tests of a selection, slow ones included."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow", *words]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    ).stdout
    line = said.strip().splitlines()[-1]
    words = line.split()
    counts = {word.rstrip(",s"): int(n) for n, word in itertools.pairwise(words) if n.isdigit()}
    return counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)


@row(19, "the catalogue of bad inputs", "0 silent, 0 cryptic", "6 clear of 31 pyro, 5 flowjax; 5 silent each")
def _():
    passed, failed = tests(
        "tests/test_catalogue.py", "tests/test_catalogue_data.py", "tests/cli/test_refusals.py", "-k", "not python_O"
    )
    return (
        f"{passed} tests of class and words, {failed} failed",
        not failed,
        "flows, densities, estimators, files, command line; layers used alone check the context only",
    )


@row(20, "planted faults killed by the tests", "all of ≥ 40", "zuko 1 of 1 tried; nflows, normflows, FrEIA 0")
def _():
    found = ROOT / "mutants.jsonl"  # faults that are in it are not planted again
    words = [sys.executable, str(ROOT / "benchmarks" / "mutants.py"), "--out", str(found)]
    subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    killed = sum(row["killed"] for row in rows)
    return f"{killed} of {len(rows)}", killed == len(rows) >= 40, "`make mutants`"


@row(21, "weights under wrong hyper-parameters", "refused, always", "14 to 210 nats off, silent")
def _():
    passed, failed = tests(
        "tests/test_io.py", "tests/test_resume.py", "-k", "wrong_hyper or another_run or another_config or do_not_fit"
    )
    return (
        f"refused: every hyper-parameter changed one at a time ({passed} tests, {failed} failed)",
        passed > 0 and not failed,
        "",
    )


@row(22, "kill −9 while saving", "0 of 1000 lost", "29 of 30 lost (plain torch.save)")
def _():
    import test_checkpoint
    from test_io_faults import KILLS, python

    with tempfile.TemporaryDirectory() as folder:
        bad = test_checkpoint.kills(700, Path(folder) / "steps")
        count = int(python(KILLS, Path(folder) / "run", 300).split()[0])
    return f"{bad} of {700 + count} lost", bad == 0 and count == 300, "300 saved models, 700 checkpoints"


@row(23, "flipped bits", "1000 of 1000 refused", "0 of 200 (plain torch.load)")
def _():
    import test_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        refused = test_checkpoint.flips(1000, Path(folder))
    passed, failed = tests("tests/test_hostile_corpus.py", "-k", "thousand_flipped")
    return (
        f"checkpoints {refused} of 1000; saved models {1000 * passed} of 2000",
        refused == 1000 and passed == 2 and not failed,
        "",
    )


@row(
    24,
    "malicious files",
    "0 executions; memory ≤ 2 × the declared size",
    "executes with weights_only=False or the variable",
)
def _():
    import test_hostile_corpus

    with tempfile.TemporaryDirectory() as folder:
        count = len(test_hostile_corpus.corpus(Path(folder) / "mark"))
    passed, failed = tests(
        "tests/test_hostile_corpus.py",
        "tests/test_io_hostile.py",
        "-k",
        "nothing_runs or foreign or bombs or gigabytes or budget",
    )
    return (
        f"0 of {count} payloads ran, through every file of a run; bombs: < 50 MB ({passed} tests, {failed} failed)",
        not failed,
        "no reader of pickles exists",
    )


@row(25, "resume", "equal to the last bit at 20 of 20 stops", "no flow library has it")
def _():
    passed, failed = tests(
        "tests/test_resume.py", "tests/test_hostile_corpus.py", "-k", "exact_at_any_step or random_steps or go_on"
    )
    return (
        f"24 stops by return, exception, signal; 20 kills at random steps: equal ({passed} tests, {failed} failed)",
        not failed and passed >= 6,
        "",
    )


@row(
    26,
    "NaN in training",
    "refused at the door with row and column; later 0 parameters not finite",
    "destroyed in one step (4 of 5)",
)
def _():
    passed, failed = tests(
        "tests/test_under_fire.py", "tests/test_fit.py", "tests/test_fit_input.py", "-k", "not wild_rate"
    )
    return f"0 ({passed} tests, {failed} failed)", not failed, ""


@row(27, "eight threads, one flow", "0 of 100,000 wrong", "0 of 1600 zuko, 17 of 2400 pyro")
def _():
    flow = m.flow_of("nsf", 2).float()
    x = flow.sample(50, generator=torch.Generator().manual_seed(0))
    wrong = m.threads(flow, x, calls=1250)
    return f"{wrong} of 10,000 (nsf)", None if wrong == 0 else False, "a tenth of the calls; 100,000 in the slow tier"


@row(
    28,
    "speed and flakiness of the suite",
    "quick tier < 120 s on two cores; 0 failures in 50 runs",
    "zuko 162 tests in 66 s",
)
def _():
    failed = [f"seed {seed}: {line}" for seed in range(1, 4) for line in statistics(seed)]
    text = (
        f"statistical rows 13 to 15 with 3 seeds: {len(failed)} failures {failed}"
        if failed
        else "statistical rows 13 to 15 with 3 seeds: 0 failures"
    )
    return (
        text,
        False,
        "about 17,000 tests take minutes, not two: the laws run on every recipe in both precisions; the seeds of tests are "
        "fixed, `--seeds 20` repeats the statistics",
    )


@row(29, "`python -O`", "the same behaviour; no `assert` for validation", "assertions vanish")
def _():
    passed, failed = tests("tests/test_catalogue.py", "-k", "python_O or optimisation")
    return (
        f"27 bad inputs give the same words; no assert in the library ({passed} tests, {failed} failed)",
        passed == 2 and not failed,
        "",
    )


def statistics(seed: int) -> list[str]:
    """Failures of the statistical rows with another seed of weights and draws."""
    failed = []
    for name in m.NAMES:
        for d in (1, 2):
            flow = m.flow_of(name, d, seed)
            value, error = m.mass(flow)
            bound = 1e-6 if d == 1 else 1e-4
            if abs(value - 1) > bound:
                failed.append(f"{name}, d={d}: mass 1 {value - 1:+.1e} (error of the quadrature {error:.0e})")
            if (p := m.draws_p(flow, seed)) <= 1e-4:
                failed.append(f"{name}, d={d}: KS p {p:.1e}")
            z, part = m.overlap(flow, seed, n=20_000 if name == "umnn" else 100_000)
            if part >= 0.3 and abs(z) > 4:
                failed.append(f"{name}, d={d}: z {z:.2f}")
    return failed


def machine() -> str:
    model = "unknown processor"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, torch {torch.__version__}"


def cells(*values: object) -> str:
    """A line of the table."""
    return "| " + " | ".join(str(v).replace("|", "\\|") for v in values) + " |"


def write(results: dict[str, dict]) -> None:
    """The table between the markers of the page."""
    lines = ["| # | what | target | best peer | ours | | measured |", "|---|---|---|---|---|---|---|"]
    short = []
    for number, (what, target, peer, _) in ROWS.items():
        found = results.get(str(number))
        if found is None:
            lines.append(cells(number, what, target, peer, "not measured yet", "–", ""))
            short.append(f"- **{number}, {what}**: not measured yet.")
            continue
        mark = {True: "met", False: "**short**", None: "–"}[found["ok"]]
        lines.append(cells(number, what, target, peer, found["figure"], mark, found["date"]))
        if not found["ok"]:
            short.append(f"- **{number}, {what}**: {found['figure']}. {found['remark']}".rstrip() + ".")
    remarks = [
        f"{n}: {results[n]['remark']}" for n in sorted(results, key=int) if results[n]["ok"] and results[n]["remark"]
    ]
    text = "\n".join(lines) + "\n\n" + f"Machine: {machine()}.\n"
    text += "\n## Where we fall short\n\n" + ("\n".join(short) or "Nowhere in this table.") + "\n"
    text += "\nRemarks by row: " + ("; ".join(remarks) or "none") + ".\n"
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", choices=sorted(ROWS), metavar="N")
    parser.add_argument("--seeds", type=int, help="repeat the statistical rows with so many seeds, and write nothing")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.list:
        for number, (what, *_) in ROWS.items():
            print(number, what)
        return
    if options.seeds:
        failures = {seed: statistics(seed) for seed in range(1, options.seeds + 1)}
        for seed, lines in failures.items():
            print(f"seed {seed}: {'; '.join(lines) or 'no failure'}", flush=True)
        print(f"{sum(map(bool, failures.values()))} of {options.seeds} runs with a failure")
        return
    results = json.loads(STORE.read_text()) if STORE.exists() else {}
    for number in options.rows or sorted(ROWS):
        start = time.process_time()
        try:
            figure, ok, remark = ROWS[number][3]()
        except Exception as error:  # the others are still worth their time
            figure, ok, remark = f"{type(error).__name__}: {str(error)[:100]}", False, "the measurement failed"
        date = datetime.date.today().isoformat()
        results[str(number)] = {
            "figure": figure,
            "ok": None if ok is None else bool(ok),
            "remark": remark,
            "date": date,
        }
        STORE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(
            f"{number:2d} {ROWS[number][0]}: {figure} [{ok}] {time.process_time() - start:.0f} s {remark}", flush=True
        )
        write(results)


if __name__ == "__main__":
    main()
