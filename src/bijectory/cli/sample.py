"""``bijectory sample``: new rows or images from a run."""

from pathlib import Path
from typing import Annotated

from typer import Option

from bijectory.cli import options
from bijectory.cli.output import check_place, rows, say, write_frame
from bijectory.cli.words import Quiet, Run, Words
from bijectory.errors import ConfigError, check


def sample(
    run: Run,
    *,
    n: Annotated[
        int | None, Option("-n", min=0, help="Number of rows (for each row of --given-from; 1000), or images (64).")
    ] = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="CSV or Parquet (stdout if absent); images: .npz, .npy, or .png for a grid."),
    ] = None,
    given: Annotated[Words, Option(metavar="COLUMN=VALUE", help="Condition: a=1.5; of images label=3.")] = None,
    given_from: Annotated[Path | None, Option(help="Table of conditions, one a row.")] = None,
    temperature: Annotated[float, Option(min=0, help="Images: below 1 likelier, less varied ones.")] = 1.0,
    seed: Annotated[int | None, Option(help="Seed; a fresh one if absent.")] = None,
    quiet: Quiet = False,
) -> None:
    """Draw new rows, or new images."""
    check(not (given and given_from), ConfigError, "--given and --given-from exclude each other; choose one.")
    from bijectory.apps import TableFlow, run_kind
    from bijectory.tables import read_table, write_parts

    if run_kind(run) == "image":
        from bijectory.cli.pictures import sample_images

        check(given_from is None, ConfigError, "--given-from is for tables; images take --given label=VALUE.")
        drawn = sample_images(run, n, given, temperature, seed, out)
        say(f"{drawn} images drawn, written to {out}", quiet=quiet)
        return
    check(temperature == 1, ConfigError, "--temperature is for images; leave it out.")
    if run_kind(run) == "vae":
        from bijectory.cli.autoencoding import sample_events

        check(not given and given_from is None, ConfigError, "an autoencoder has no given columns; leave --given out.")
        sample_events(run, n, seed, out, quiet=quiet)
        return
    if run_kind(run) == "posterior":
        from bijectory.apps import VariationalPosterior

        check(not given and given_from is None, ConfigError, "a posterior has no given columns; leave --given out.")
        write_frame(VariationalPosterior.load(run).sample(1000 if n is None else n, seed=seed), out)
        return
    conditions = options.values(given)
    model = TableFlow.load(run)
    known = [c.name for c in model.schema.columns if c.role == "given"]
    strange = sorted(set(conditions) - set(known))
    listing = ", ".join(known) or "none"
    check(not strange, ConfigError, f"--given {strange}: the given columns of this run are: {listing}.")
    table = read_table(given_from) if given_from else {k: [v] for k, v in conditions.items()} or None
    check_place(out)
    count = write_parts(model.sample_parts(1000 if n is None else n, given=table, seed=seed), out)
    say(f"{rows(count)} drawn{f', written to {out}' if out else ''}", quiet=quiet)
