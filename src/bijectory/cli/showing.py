"""The steps of ``demo``, each with the command that does the same to a file."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_image

from bijectory.apps import TableFit, fit_table
from bijectory.apps.baselines import fit_baselines
from bijectory.apps.photograph import bounds, paint, pixels, save_side_by_side
from bijectory.apps.tabular import table_config
from bijectory.cli import options
from bijectory.cli.output import print_table, say
from bijectory.report import write_report

PICTURE = "flower.jpg"
HELD_OUT = 0.04
DRAWS = 150_000


def run_demo(out: Path, seconds: float | None, *, quiet: bool) -> None:
    """Fit, compare, draw, score, report."""
    image = load_sample_image(PICTURE)
    height, width, _ = image.shape
    rows = pixels(image)
    print(f"{PICTURE} (scikit-learn): {len(rows):,} pixels as rows {', '.join(rows.columns)}\n")
    say("[1/5] learning the density · bijectory fit pixels.csv --out demo-run --bounded x=0:640 …", quiet=quiet)
    out.mkdir(parents=True, exist_ok=True)
    options.remove_run(out)
    save_side_by_side(out / "picture.png", paint(rows, height, width))
    config = table_config(len(rows), epochs=None, time_budget=seconds, progress=not quiet)
    fitted = fit_table(rows, bounded=bounds(image), test_fraction=HELD_OUT, config=config, out=out)

    say("[2/5] the classical densities on the same rows", quiet=quiet)
    print_table(["held-out log-likelihood", "nats a row", "±"], compare(fitted))

    say("[3/5] drawing rows and painting them · bijectory sample demo-run -n 150000 -o draws.csv", quiet=quiet)
    draws = fitted.model.sample(DRAWS, seed=0)
    print_table(
        list(draws.columns), [[f"{v:.1f}" for v in row] for row in draws.head(3).to_numpy()], title="\nthree draws"
    )
    save_side_by_side(out / "picture.png", paint(rows, height, width), paint(draws, height, width))

    say("[4/5] scoring rows · bijectory score demo-run pixels.csv -o scored.csv", quiet=quiet)
    scored = fitted.test.assign(log_prob=fitted.model.score_samples(fitted.test)).sort_values("log_prob")
    ends = [[f"{v:.1f}" for v in row] for row in scored.iloc[[0, 1, -2, -1]].to_numpy()]
    print_table(list(scored.columns), ends, title="\nthe two least and the two most likely held-out pixels")

    say("[5/5] the report · bijectory report demo-run", quiet=quiet)
    print(f"\npicture and draws side by side: {out / 'picture.png'}\nreport: {write_report(out)}")


def compare(fitted: TableFit) -> list[list[str]]:
    """Held-out log-likelihoods of the classical densities and of the flow, in the units of the data."""
    train, test = fitted.train.to_numpy(), fitted.test.to_numpy()
    centre, scale = train.mean(axis=0), train.std(axis=0)
    found = fit_baselines((train - centre) / scale, (test - centre) / scale)
    scores = {b.name: b.log_prob - np.log(scale).sum() for b in found}
    scores["this flow"] = fitted.model.score_samples(fitted.test)
    return [[name, f"{s.mean():.3f}", f"{s.std() / len(s) ** 0.5:.3f}"] for name, s in scores.items()]
