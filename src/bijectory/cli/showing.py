"""The steps of ``demo``, each with the command that does the same to a file."""

from collections.abc import Iterable
from pathlib import Path

from sklearn.datasets import load_sample_image

from bijectory.apps import fit_table, table_config
from bijectory.apps.photograph import bounds, paint, pixels, save_side_by_side
from bijectory.cli import options
from bijectory.cli.output import print_table, say
from bijectory.report import read_run, scores, write_report

PHOTOGRAPH = "flower.jpg"
HELD_OUT = 0.04
DRAWS = 300_000


def run_demo(out: Path, seconds: float | None, *, quiet: bool) -> None:
    """Fit, compare, draw, score, report."""
    image = load_sample_image(PHOTOGRAPH)
    height, width, _ = image.shape
    rows = pixels(image)
    out.mkdir(parents=True, exist_ok=True)
    options.remove_run(out)
    save_side_by_side(out / "picture.png", paint(rows, height, width))
    print(
        f"{PHOTOGRAPH} (scikit-learn) as a table: {len(rows):,} pixels, columns {', '.join(rows.columns)}", flush=True
    )

    say(f"\n[1/5] learning the density          (bijectory fit pixels.csv --out {out})", quiet=quiet)
    config = table_config(len(rows), epochs=None, time_budget=seconds, progress=not quiet)
    fitted = fit_table(rows, bounded=bounds(image), test_fraction=HELD_OUT, config=config, out=out)

    say("\n[2/5] classical densities on the same rows", quiet=quiet)
    content = read_run(out)
    lines = [[s.name, f"{s.nats:.3f}", f"[{s.low:.3f}, {s.high:.3f}]", f"{s.gain:+.3f}"] for s in scores(content)]
    print_table([f"{len(content.log_prob):,} held-out pixels", "nats a row", "95 % interval", "flow gains"], lines)

    say(f"\n[3/5] drawing new pixels             (bijectory sample {out} -n {DRAWS} -o draws.csv)", quiet=quiet)
    draws = fitted.model.sample(DRAWS, seed=0)
    print_table(list(draws.columns), [_digits(row) for row in draws.head(3).to_numpy()])
    save_side_by_side(out / "picture.png", paint(rows, height, width), paint(draws, height, width))

    say(f"\n[4/5] scoring pixels                 (bijectory score {out} pixels.csv -o scored.csv)", quiet=quiet)
    scored = fitted.test.assign(log_prob=fitted.model.score_samples(fitted.test)).sort_values("log_prob")
    print_table(list(scored.columns), [_digits(row) for row in scored.iloc[[0, 1, -2, -1]].to_numpy()])

    say(f"\n[5/5] writing the report             (bijectory report {out})", quiet=quiet)
    print(f"\nphotograph and draws side by side: {out / 'picture.png'}\nreport: {write_report(out, content)}")


def _digits(row: Iterable[float]) -> list[str]:
    return [f"{value:.2f}" for value in row]
