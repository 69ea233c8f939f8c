"""The table of verbs."""

from typing import Annotated

import typer
from typer import Option

import bijectory
from bijectory.cli.anomaly import anomaly
from bijectory.cli.compare import compare
from bijectory.cli.demo import demo
from bijectory.cli.distill import distill
from bijectory.cli.doctor import doctor
from bijectory.cli.evidence import evidence
from bijectory.cli.fit import fit
from bijectory.cli.infer import infer
from bijectory.cli.list import list_recipes
from bijectory.cli.predict import predict
from bijectory.cli.query import query
from bijectory.cli.ratio import ratio
from bijectory.cli.report import report
from bijectory.cli.sample import sample
from bijectory.cli.sbi import sbi
from bijectory.cli.score import score
from bijectory.cli.show import show
from bijectory.cli.solver import solver
from bijectory.cli.vae import vae

app = typer.Typer(
    name="bijectory",
    help="Normalizing flows for tables and images: exact log-likelihoods and exact samples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:  # noqa: FBT001 - the signature of a typer callback
    if asked:
        typer.echo(bijectory.__version__)
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the trace of an error (also after a verb).")] = False,
) -> None:
    """Normalizing flows for tables and images: exact log-likelihoods and exact samples."""


for verb in (
    fit,
    sample,
    score,
    show,
    report,
    distill,
    solver,
    infer,
    evidence,
    anomaly,
    compare,
    ratio,
    sbi,
    vae,
    predict,
    query,
    demo,
    doctor,
):
    app.command()(verb)
app.command("list")(list_recipes)
