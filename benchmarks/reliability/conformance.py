"""Rows 17 to 21 and 29: what others ask of a flow, bad input, planted faults, `python -O`."""

import dataclasses
import json
import subprocess
import sys

import torch
from benchmarks.reliability.register import ROOT, row, verdict

import measures as m


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


@row(19, "the catalogue of bad inputs", "0 silent, 0 cryptic", "6 clear of 31 pyro, 5 flowjax; 5 silent each")
def _():
    files = ("tests/test_catalogue.py", "tests/test_catalogue_data.py", "tests/cli/test_refusals.py")
    said, ok = verdict(*files, "-k", "not python_O")
    remark = "flows, densities, estimators, files, command line; layers used alone check the context only"
    return f"class and words: {said}", ok, remark


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
    names = "wrong_hyper or another_run or another_config or do_not_fit"
    said, ok = verdict("tests/test_io.py", "tests/test_resume.py", "-k", names)
    return f"refused: every hyper-parameter changed one at a time ({said})", ok, ""


@row(29, "`python -O`", "the same behaviour; no `assert` for validation", "assertions vanish")
def _():
    said, ok = verdict("tests/test_catalogue.py", "-k", "python_O or optimisation", least=2)
    return f"27 bad inputs give the same words; no assert in the library ({said})", ok, ""
