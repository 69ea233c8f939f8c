"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Run = Annotated[Path, Argument(help="Run folder that `bijectory fit` wrote.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress, no warnings: data and errors only.")]
Words = list[str] | None
