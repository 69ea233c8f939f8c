"""Rows 22 to 27: kills, flipped bits, hostile files, resume, NaN, threads."""

import tempfile
from pathlib import Path

import torch
from benchmarks.reliability.register import row, run_tests, verdict

import measures as m


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
    passed, failed = run_tests("tests/test_hostile_corpus.py", "-k", "thousand_flipped")
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
    names = "nothing_runs or foreign or bombs or gigabytes or budget"
    said, ok = verdict("tests/test_hostile_corpus.py", "tests/test_io_hostile.py", "-k", names)
    figure = f"0 of {count} payloads ran, through every file of a run; bombs: < 50 MB ({said})"
    return figure, ok, "no reader of pickles exists"


@row(25, "resume", "equal to the last bit at 20 of 20 stops", "no flow library has it")
def _():
    names = "exact_at_any_step or random_steps or go_on"
    said, ok = verdict("tests/test_resume.py", "tests/test_hostile_corpus.py", "-k", names, least=6)
    return f"24 stops by return, exception, signal; 20 kills at random steps: equal ({said})", ok, ""


@row(
    26,
    "NaN in training",
    "refused at the door with row and column; later 0 parameters not finite",
    "destroyed in one step (4 of 5)",
)
def _():
    files = ("tests/test_under_fire.py", "tests/test_fit.py", "tests/test_fit_input.py")
    said, ok = verdict(*files, "-k", "not wild_rate")
    return f"0 ({said})", ok, ""


@row(27, "eight threads, one flow", "0 of 100,000 wrong", "0 of 1600 zuko, 17 of 2400 pyro")
def _():
    flow = m.flow_of("nsf", 2).float()
    x = flow.sample(50, generator=torch.Generator().manual_seed(0))
    wrong = m.threads(flow, x, calls=12_500)
    return f"{wrong} of 100,000 (nsf)", wrong == 0, ""
