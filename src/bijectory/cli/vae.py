"""``bijectory vae``: a variational autoencoder whose posterior is a flow."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.words import Json, Quiet, Words


def vae(
    data: Annotated[
        Path, Argument(help="Images: .npy, .npz, idx, folder of PNG. Tables of numbers: CSV, Parquet, .npy.")
    ],
    *,
    out: Annotated[Path, Option("--out", "-o", help="Run folder to write.")],
    posterior: Annotated[
        str, Option(metavar="NAME", help="diagonal, planar, sylvester, iaf, real_nvp, nsf or cnf.")
    ] = "diagonal",
    set_: Annotated[Words, Option("--set", metavar="NAME=VALUE", help="Argument of the posterior: layers=8.")] = None,
    latent: Annotated[int, Option(min=1, help="Width of the latent.")] = 32,
    net: Annotated[str, Option(metavar="dense|gated", help="Perceptrons, or gated convolutions.")] = "dense",
    hidden: Annotated[str | None, Option(metavar="N,N", help="Widths of the networks (gated: channels, code).")] = None,
    likelihood: Annotated[
        str | None, Option(metavar="NAME", help="bernoulli, logistic, categorical or gaussian; else by the data.")
    ] = None,
    binarize: Annotated[str, Option(metavar="no|dynamic|threshold", help="Grey images as binary ones.")] = "no",
    prior: Annotated[str | None, Option(metavar="RECIPE", help="A flow as the prior; else standard normal.")] = None,
    levels: Annotated[int | None, Option(help="Images: number of levels of a pixel.")] = None,
    warm_up: Annotated[int | None, Option(min=0, help="Steps until the KL term has its full weight.")] = None,
    free_bits: Annotated[float, Option(min=0, help="Nats of the KL term that cost nothing.")] = 0.0,
    epochs: Annotated[int | None, Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, Option(help="Images or rows of a step.")] = None,
    lr: Annotated[float | None, Option(help="Peak learning rate.")] = None,
    time_budget: Annotated[str | None, Option(metavar="TIME", help="Stop after 90s, 10m or 1.5h of training.")] = None,
    seed: Annotated[int, Option(min=0, help="Seed of everything random.")] = 0,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    no_report: Annotated[bool, Option("--no-report", help="Do not write report.html.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a variational autoencoder: a latent code of every image, bounds on its likelihood, and draws."""
    options.claim(out, resume=resume, overwrite=overwrite)
    words: dict[str, Any] = {
        "posterior": posterior,
        "posterior_args": options.settings(set_),
        "latent": latent,
        "net": net,
    }
    words |= {"likelihood": likelihood, "binarize": binarize, "prior": prior, "levels": levels, "warm_up": warm_up}
    words |= {"free_bits": free_bits} | options.widths(hidden)
    training: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "time_budget": options.seconds(time_budget),
    }
    training = {k: v for k, v in training.items() if v is not None}
    training |= {"seed": seed, "progress": not quiet}
    from bijectory.cli.autoencoding import run_vae

    run_vae(data, out, words, training, resume=resume, report=not no_report, json=json, quiet=quiet)
