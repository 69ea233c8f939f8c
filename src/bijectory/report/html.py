"""The HTML page: one file, no network, figures inside."""

import base64
from pathlib import Path

import jinja2

from bijectory.report.content import Content, anomalies, scores, verdicts
from bijectory.report.figures import FIGURES, MAX_CORNER, to_png

LIGHTS = {"good": "●", "warn": "▲", "bad": "■"}


def render(content: Content, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a folder.

    Args:
        content: What to show.
        folder: Must exist.

    Returns:
        Path of the HTML file.
    """
    figures = []
    (folder / "figures").mkdir(exist_ok=True)
    for name, (caption, draw) in FIGURES.items():
        png = to_png(draw(content))
        (folder / "figures" / f"{name}.png").write_bytes(png)
        figures.append((name, caption, base64.b64encode(png).decode("ascii")))
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("bijectory.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = env.get_template("report.html.j2").render(
        content=content,
        verdicts=verdicts(content),
        lights=LIGHTS,
        scores=scores(content),
        anomalies=anomalies(content),
        figures=figures,
        shown=min(MAX_CORNER, len(content.columns)),
        run_name=folder.resolve().name,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
