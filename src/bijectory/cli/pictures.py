"""What ``sample``, ``score`` and ``show`` do with the run of images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bijectory.apps import ImageFlow, read_images
from bijectory.apps.images import write_grid
from bijectory.cli import options
from bijectory.cli.output import print_table, say, write_frame, write_json
from bijectory.errors import ConfigError, check
from bijectory.io import load_metadata

SHOWN = 64


def sample_images(
    run: Path, n: int | None, given: Iterable[str] | None, temperature: float, seed: int | None, out: Path | None
) -> int:
    """Draw images into an .npz, .npy or .png file; returns their number."""
    if out is None or out.suffix.lower() not in (".npz", ".npy", ".png"):
        raise ConfigError(f"images need a file: --out samples.png (a grid) or samples.npz, got --out {out}.")
    model = ImageFlow.load(run)
    conditions = dict(options.pair(word, "--given", "label=VALUE") for word in given or ())
    strange = ", ".join(sorted(set(conditions) - {"label"}))
    check(not strange, ConfigError, f"--given {strange}: images are conditioned on --given label=VALUE only.")
    n = SHOWN if n is None else n
    label: Any = conditions.get("label")
    if model.schema.classes and label is None:
        label = model.draw_labels(n, seed=seed)
    images = model.sample(n, label=label, temperature=temperature, seed=seed)
    if out.suffix.lower() == ".png":
        write_grid(out, model.schema.channels_last(images), model.schema.levels)
    elif out.suffix.lower() == ".npy":
        np.save(out, images)
    elif model.schema.classes and n:
        chosen = model.schema.context(label, n).argmax(1)  # type: ignore[union-attr]  # there are classes
        np.savez_compressed(out, images=images, labels=np.array(model.schema.classes)[chosen])
    else:
        np.savez_compressed(out, images=images)
    return n


def score_images(run: Path, data: Path, samples: int | None, out: Path | None, *, json: bool, quiet: bool) -> None:
    """Bits per dimension of every image, as a table."""
    model, found = ImageFlow.load(run), read_images(data)
    labels = found.labels if model.schema.classes else None
    frame = pd.DataFrame({"image": found.names or np.arange(len(found.images))})
    if labels is not None:
        frame["label"] = labels
    frame["bits_per_dim"] = model.score(found.images, labels, samples=samples)
    bits = frame["bits_per_dim"]
    error = float(bits.sem()) if len(bits) > 1 else float("nan")
    if out is not None or not json:
        write_frame(frame, out)
    if json:
        worst = frame["image"][int(bits.argmax())]
        summary = {"images": len(frame), "mean_bits_per_dim": float(bits.mean()), "standard_error": error}
        write_json(summary | {"highest_image": worst if isinstance(worst, str) else int(worst)})
    say(f"{len(frame)} images, {bits.mean():.4f} ± {error:.4f} bits per dimension", quiet=quiet or json)


def show_images(run: Path, *, json: bool) -> None:
    """Shape, training and scores of a run of images."""
    model, facts = ImageFlow.load(run), load_metadata(run)
    schema, scores = model.schema, facts.pop("scores", {})
    facts |= {"images": schema.images, "parameters": sum(p.numel() for p in model.density.parameters())}
    facts |= {"shape": " x ".join(map(str, schema.shape)), "levels": schema.levels, "layout": schema.layout}
    classes = [{"class": c, "images": k} for c, k in zip(schema.classes, schema.counts, strict=True)]
    if json:
        write_json({"facts": facts, "classes": classes, "scores": scores, "notes": list(schema.notes)})
        return
    print_table(["run", str(run)], [[k, str(v)] for k, v in facts.items()])
    print()
    if classes:
        print_table(["class", "training images"], [[str(c["class"]), str(c["images"])] for c in classes])
        print()
    parts = [[k, str(s["images"]), f"{s['bits_per_dim']:.4f}", f"{s['standard_error']:.4f}"] for k, s in scores.items()]
    print_table(["part", "images", "bits per dimension", "standard error"], parts)
    for note in schema.notes:
        print(f"note: {note}")
