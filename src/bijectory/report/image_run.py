"""From the run folder of images to its report."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bijectory.apps import ImageFlow, load_images
from bijectory.apps.baselines import independent_pixels
from bijectory.apps.images import grid
from bijectory.apps.images.fit import SCORED, thin
from bijectory.densities import bits_per_dim
from bijectory.errors import DataError, check
from bijectory.io import load_metadata
from bijectory.report.figures import DATA, MODEL, QUIET, new_figure, to_png
from bijectory.report.html import write_page
from bijectory.report.image_content import ImageContent, Part, Pixels, image_verdicts
from bijectory.report.records import audit_rows, history

TEMPERATURES = (0.25, 0.5, 0.7, 0.85, 1.0)
SHOWN, COLUMNS, PATHS, MEASURED = 64, 8, 4, 500
WIDTH = 640  # of a picture on the page, at least; small images are magnified by a whole number


def read_image_run(folder: str | Path, *, seed: int = 0) -> ImageContent:
    """Collect the content of a report: score kept images, draw, interpolate, fit the baseline.

    Args:
        folder: A run folder with a model, its schema and the images it keeps.
        seed: Of the draws.

    Raises:
        CheckpointError: If the model cannot be read or a record of the run is damaged.
        DataError: If the folder keeps no images.
    """
    folder = Path(folder)
    model, kept, metadata = ImageFlow.load(folder), load_images(folder), load_metadata(folder)
    schema = model.schema
    part = next((name for name in ("test", "validation", "train") if len(kept[name][0]) > 1), None)
    check(part is not None, DataError, f"{folder} keeps fewer than two images; fit to more.")
    images, labels = kept[part]  # type: ignore[index]  # checked
    chosen = thin(np.arange(len(images)), MEASURED)
    images, labels = images[chosen], None if labels is None else labels[chosen]
    baseline = independent_pixels(kept["train"][0], images, schema.levels)
    drawn = model.draw_labels(min(MEASURED, len(images)), seed=seed) if schema.classes else None
    draws = model.sample(min(MEASURED, len(images)), label=drawn, seed=seed)
    remark = [] if part == "test" else [f"no test images were held out: the figures are those of the {part} images."]
    few = np.random.default_rng(seed).permutation(len(images))[:SHOWN]
    return ImageContent(
        title=metadata.get("name") or folder.resolve().name,
        shape=schema.shape,
        levels=schema.levels,
        classes=schema.classes,
        part=part or "",
        heldout=schema.channels_last(images[few]),
        samples=schema.channels_last(_samples(model, seed)),
        sweep=[(t, schema.channels_last(_draw(model, COLUMNS, t, seed))) for t in TEMPERATURES],
        paths=_paths(model, images[few], None if labels is None else labels[few]),
        parts=_parts(model, metadata.get("scores", {}), kept),
        bits=model.score(images, labels),
        baseline_bits=bits_per_dim(baseline.log_prob, schema.shape),
        sample_bits=model.score(draws, drawn),
        history=history(folder / "metrics.jsonl"),
        audit=audit_rows(folder / "audit.json"),
        facts=_facts(model, metadata, {name: len(x) for name, (x, _) in kept.items()}),
        notes=[*remark, *schema.notes],
    )


def write_image_report(folder: str | Path, content: ImageContent | None = None, *, seed: int = 0) -> Path:
    """Write ``report.html`` and ``figures/`` into the run folder of images; arguments as for ``write_report``."""
    content = read_image_run(folder, seed=seed) if content is None else content
    verdicts = image_verdicts(content)
    return write_page("images.html.j2", Path(folder), figures(content), content=content, verdicts=verdicts)


def figures(content: ImageContent) -> list[tuple[str, str, bytes]]:
    """Name, caption and PNG of every figure."""
    sweep = np.concatenate([images for _, images in content.sweep])
    steps = content.paths.shape[1]
    by_class = ", a row for each class" if content.classes else ""
    temperatures = ", ".join(f"{t:g}" for t, _ in content.sweep)
    pictures = (
        ("samples", f"Draws from the model{by_class}", content.samples, COLUMNS),
        ("heldout", f"Images it has not seen ({content.part})", content.heldout, COLUMNS),
        ("temperature", f"The same noise at temperatures {temperatures}, from top to bottom", sweep, COLUMNS),
        ("interpolation", "From one held-out image (left) to another (right) along a great circle of latent space",
         content.paths.reshape(-1, *content.paths.shape[2:]), steps),
    )  # fmt: skip
    shown = [(name, caption, picture(x, content.levels, n)) for name, caption, x, n in pictures]
    plots = [("histogram", "How typical held-out images are", to_png(histogram(content)))]
    if content.history:
        plots.append(("learning", "Learning curves; the noise is fresh in every step", to_png(learning(content))))
    return [*shown, *plots]


def picture(images: Pixels, levels: int, columns: int) -> bytes:
    """A grid as PNG, magnified so that pixels can be seen."""
    small = grid(images, levels, columns)
    factor = max(1, -(-WIDTH // small.shape[1]))
    buffer = io.BytesIO()
    Image.fromarray(small).resize((small.shape[1] * factor, small.shape[0] * factor), Image.Resampling.NEAREST).save(
        buffer, format="PNG"
    )
    return buffer.getvalue()


def histogram(content: ImageContent) -> Figure:
    """Bits per dimension of held-out images, of draws, and of independent pixels."""
    figure, ax = new_figure(6.4, 3.0)
    series = (
        (content.bits, DATA, "held-out images"),
        (content.sample_bits, MODEL, "samples"),
        (content.baseline_bits, QUIET, "held-out images, independent pixels"),
    )
    everything = np.concatenate([values for values, *_ in series])
    everything = everything[np.isfinite(everything)]
    low, high = np.quantile(everything, (0.0, 0.995)) if len(everything) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 61).tolist()
    for values, color, label in series:
        ax.hist(values[np.isfinite(values)], bins=bins, density=True, histtype="step", color=color, label=label)
    ax.set(xlabel="bits per dimension", ylabel="density")
    ax.legend(frameon=False)
    return figure


def learning(content: ImageContent) -> Figure:
    """Training and validation loss by epoch, bits per dimension."""
    figure, ax = new_figure(6.4, 3.2)
    unit = math.prod(content.shape) * math.log(2)
    epochs = [h["epoch"] for h in content.history]
    for key, color, label in (("train_loss", QUIET, "training"), ("val_loss", MODEL, "validation")):
        values = [h.get(key) for h in content.history]
        if any(v is not None for v in values):
            ax.plot(
                epochs, [np.nan if v is None else v / unit for v in values], color=color, label=label, marker=".", ms=4
            )
    ax.set(xlabel="epoch", ylabel="bits per dimension")
    ax.legend(frameon=False)
    return figure


def _samples(model: ImageFlow, seed: int) -> Pixels:
    classes = model.schema.classes
    if not classes:
        return model.sample(SHOWN, seed=seed)
    return model.sample(COLUMNS * min(len(classes), 10), label=np.repeat(classes[:10], COLUMNS), seed=seed)


def _draw(model: ImageFlow, n: int, temperature: float, seed: int) -> Pixels:
    label = model.draw_labels(n, seed=seed) if model.schema.classes else None
    return model.sample(n, label=label, temperature=temperature, seed=seed)


def _paths(model: ImageFlow, images: Pixels, labels: np.ndarray | None) -> Pixels:
    """Paths between neighbours in the list, of a class-conditional model between images of one class."""
    groups = [np.arange(len(images))] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    pairs = [group[k : k + 2] for k in range(0, len(images), 2) for group in groups if len(group[k : k + 2]) == 2]
    rows = []
    for i, j in pairs[:PATHS]:
        label = None if labels is None else labels[i]
        rows.append(model.schema.channels_last(model.interpolate(images[i], images[j], COLUMNS, label=label)))
    shape = model.schema.channels_last(images[:1]).shape[1:]
    return np.stack(rows) if rows else np.zeros((0, COLUMNS, *shape), dtype=images.dtype)


def _parts(model: ImageFlow, scores: dict[str, Any], kept: dict[str, Any]) -> list[Part]:
    """What the fit measured, beside independent pixels on (some of) the same images."""
    found = []
    for name, score in scores.items():
        images = kept[name][0]
        chosen = images[thin(np.arange(len(images)), SCORED)]
        log_prob = independent_pixels(kept["train"][0], chosen, model.schema.levels).log_prob
        bits = bits_per_dim(log_prob, model.schema.shape)
        error = float(bits.std(ddof=1) / math.sqrt(len(bits)))
        found.append(
            Part(name, score["images"], score["bits_per_dim"], score["standard_error"], float(bits.mean()), error)
        )
    return found


def _facts(model: ImageFlow, metadata: dict[str, Any], kept: dict[str, int]) -> dict[str, str]:
    """What else to know about the run, as text."""
    schema = model.schema
    facts = {k.replace("_", " "): str(v) for k, v in metadata.items() if isinstance(v, (str, int, float))}
    facts["parameters"] = f"{sum(p.numel() for p in model.density.parameters()):,}"
    facts["images"] = f"{schema.images:,} of {' x '.join(map(str, schema.shape))}, {schema.levels} levels"
    facts["images kept for this report"] = ", ".join(f"{name} {n:,}" for name, n in kept.items())
    classes = ", ".join(f"{c} ({n:,})" for c, n in zip(schema.classes, schema.counts, strict=True))
    return {**facts, "classes (training images)": classes} if classes else facts
