"""The HTML page: one file, no network, figures inside."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    figures = [(name, caption, to_png(draw(content))) for name, (caption, draw) in FIGURES.items()]
    return write_page(
        "report.html.j2",
        folder,
        figures,
        content=content,
        verdicts=verdicts(content),
        scores=scores(content),
        anomalies=anomalies(content),
        shown=min(MAX_CORNER, len(content.columns)),
    )


def write_page(template: str, folder: Path, figures: Sequence[tuple[str, str, bytes]], **values: Any) -> Path:
    """Fill a template and write ``report.html`` and ``figures/*.png``.

    Args:
        template: Name of the template.
        folder: Must exist.
        figures: Name, caption and PNG bytes of each.
        **values: What else the template shows.

    Returns:
        Path of the HTML file.
    """
    (folder / "figures").mkdir(exist_ok=True)
    for name, _, png in figures:
        (folder / "figures" / f"{name}.png").write_bytes(png)
    encoded = [(name, caption, base64.b64encode(png).decode("ascii")) for name, caption, png in figures]
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("bijectory.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = env.get_template(template).render(figures=encoded, lights=LIGHTS, run_name=folder.resolve().name, **values)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
