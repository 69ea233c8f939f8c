"""Plants faults into a copy of the package, one at a time, and asks whether the ordinary tests see them.

Each fault of ``mutants.toml`` is a piece of text and what replaces it. A mutant is *killed* when a test fails, *survives*
when all pass. The tests named beside a fault are tried first; if they pass, the whole quick tier is (``--quick-tier``).

    python benchmarks/mutants.py                     # all of them, about an hour on one core
    python benchmarks/mutants.py --only spline       # those whose name holds a word
    python benchmarks/mutants.py --baseline          # the named tests on the sound package: they must pass

Exit code 1 if a mutant survives, or if a fault no longer fits the code.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIST = HERE / "mutants.toml"
PASSED, FAILED, INTERRUPTED = 0, 1, 2


def read(path=LIST):
    """The faults: dictionaries with name, file, find, replace and tests."""
    return tomllib.loads(path.read_text())["mutant"]


def plant(fault, root):
    """Change one place of the copy; returns the sound text. The text to replace must be there exactly once."""
    path = root / "src" / "bijectory" / fault["file"]
    sound = path.read_text()
    found = sound.count(fault["find"])
    if found != 1:
        raise SystemExit(f"{fault['name']}: its text occurs {found} times in {fault['file']}; mend mutants.toml.")
    changed = sound.replace(fault["find"], fault["replace"])
    if path.suffix == ".py":
        compile(changed, str(path), "exec")
    path.write_text(changed)
    return path, sound


def run_tests(root, arguments, limit):
    """Exit code of pytest and the first test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root / "src")}
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=root, env=env, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED, f"did not end within {limit} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, lines[0].split(" - ")[0] if lines else done.stdout[-300:] + done.stderr[-300:]


def judge(fault, root, quick_tier, limit):
    """Plant, test, restore."""
    start = time.monotonic()
    path, sound = plant(fault, root)
    try:
        code, first = run_tests(root, fault["tests"], limit)
        if code == PASSED and quick_tier:
            code, first = run_tests(root, ["tests"], 3600)
    finally:
        path.write_text(sound)
    if code not in (PASSED, FAILED, INTERRUPTED):
        raise SystemExit(f"{fault['name']}: pytest ended with {code}: {first}")
    return {
        "name": fault["name"],
        "killed": code != PASSED,
        "by": first if code != PASSED else None,
        "seconds": round(time.monotonic() - start, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names that hold this word")
    parser.add_argument("--out", type=Path, help="JSON lines of the results; those in it are not tried again")
    parser.add_argument("--baseline", action="store_true", help="run the named tests without any fault")
    parser.add_argument("--quick-tier", action="store_true", help="try the whole quick tier on what survives")
    parser.add_argument("--limit", type=int, default=900, help="seconds for the named tests of one fault")
    args = parser.parse_args()

    faults = [f for f in read() if not args.only or args.only in f["name"]]
    done = {}
    if args.out and args.out.exists():
        done = {row["name"]: row for row in map(json.loads, args.out.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("src", "tests", "scripts", "benchmarks", "docs", "examples"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "Makefile", "constraints.txt", "CHANGELOG.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / name, root / name)
        if args.baseline:
            for tests in sorted({tuple(f["tests"]) for f in faults}):
                code, first = run_tests(root, tests, args.limit)
                print("sound" if code == PASSED else f"BROKEN {first}", *tests, flush=True)
            return 0
        for fault in faults:
            if fault["name"] in done:
                continue
            row = done[fault["name"]] = judge(fault, root, args.quick_tier, args.limit)
            print(
                f"{'killed  ' if row['killed'] else 'SURVIVED'} {row['name']:44} {row['seconds']:6} s  {row['by'] or ''}"
            )
            sys.stdout.flush()
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    survivors = [f["name"] for f in faults if not done[f["name"]]["killed"]]
    print(
        f"{len(faults) - len(survivors)} of {len(faults)} killed",
        *(f"survived: {name}" for name in survivors),
        sep="\n",
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
