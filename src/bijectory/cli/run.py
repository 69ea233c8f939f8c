"""Errors as one sentence and an exit code."""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from bijectory.cli.app import app
from bijectory.errors import CheckpointError, ConfigError, ConvergenceError, FlowError

DEFECT, USAGE, DATA, CHECKPOINT, NUMERICAL, INTERRUPTED, PIPE = 1, 2, 3, 4, 5, 130, 141
CODES: tuple[tuple[type[BaseException], int], ...] = (
    (typer.BadParameter.__base__ or typer.BadParameter, USAGE),  # click's UsageError, whichever click typer runs on
    (ConfigError, USAGE),
    (CheckpointError, CHECKPOINT),
    (ConvergenceError, NUMERICAL),
    (FlowError, DATA),
    (OSError, DATA),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 success, 2 usage, 3 data, 4 checkpoint, 5 numerical, 128 + n after signal n, 1 a defect of Bijectory itself.

    Args:
        args: The words of the command line, ``sys.argv[1:]`` if None.
    """
    # Read when torch loads libgomp: threads that spin long for each other make every step several times slower when other
    # programs use the cores; this little costs nothing on a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if {"--quiet", "-q"} & set(words) else "default")
            warnings.showwarning = _warn  # type: ignore[assignment]
            code = app([w for w in words if w != "--debug"], prog_name="bijectory", standalone_mode=False)
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # click turns a broken pipe into sys.exit(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit stays silent too
        return PIPE
    except (KeyboardInterrupt, typer.Abort):
        print("bijectory: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error, as_json="--json" in words)
    return code if isinstance(code, int) else 0


def _report(error: Exception, *, as_json: bool) -> int:
    """Print an error as one line, as JSON if asked for, and return its exit code."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), DEFECT)
    text = " ".join(_message(error).split())
    if code == DEFECT:
        text = f"unexpected {type(error).__name__}: {text} (run again with --debug and report the trace)"
    if as_json:
        text = json.dumps({"error": type(error).__name__, "message": text, "exit_code": code})
    else:
        text = f"bijectory: {text}"
    if _message(error):  # click has nothing to add where it printed the help
        print(text, file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror.lower()}; free some space or name another place."
    formatted = getattr(error, "format_message", None)  # click adds the name of the option
    return str(formatted() if formatted else error)


def _warn(message: Warning | str, category: type[Warning], *args: Any) -> None:
    if not issubclass(category, DeprecationWarning | FutureWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
