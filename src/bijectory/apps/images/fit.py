"""From images to their distribution: look, split, train, put together."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save

from bijectory.apps.images.model import ImageFlow
from bijectory.apps.images.schema import (
    ImageSchema,
    Layout,
    channels_first,
    find_classes,
    find_layout,
    find_levels,
    to_levels,
)
from bijectory.apps.kind import SCHEMA
from bijectory.apps.tabular import AUDIT, SPLITS
from bijectory.densities import Audit, Dequantized, Flow
from bijectory.errors import CheckpointError, ConfigError, DataError, check
from bijectory.io.fs import atomic_write
from bijectory.objectives import Batch, dequantized_nll
from bijectory.recipes import RECIPES, find_recipe, pixel_noise
from bijectory.tables import Split
from bijectory.tables.split import split_keys
from bijectory.training import Callback, Data, FitConfig, FitResult, fit

KEPT_BYTES = 1 << 25  # of the images of each part that a run folder keeps for its report
SCORED = 2000  # images of each part that are scored after a fit
AUDITED = 64
PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ImageFit:
    """What came out of ``fit_images``.

    Attributes:
        model: The distribution.
        result: What the training loop says; its losses are in nats per image, a bound with fresh noise.
        split: Numbers of the images in the three parts.
        images: All images, in their layout, as whole-number pixels.
        labels: Their labels, for a class-conditional model, or None.
        scores: For each part its number of scored images, mean bits per dimension, and standard error.
        audit: Checks of the fitted flow on held-out images, or None.

    Example:
        >>> from bijectory import Chain, Elementwise, Logit, Reshape, StandardNormal, Affine
        >>> def simple(shape, context=0, *, levels):
        ...     steps = Reshape(shape, (16,)), Elementwise(Logit(0, levels), 16), Elementwise(Affine(), 16)
        ...     return Flow(Chain(*steps), StandardNormal(16))
        >>> images = np.random.default_rng(0).integers(0, 8, (300, 4, 4))
        >>> fitted = fit_images(images, recipe=simple, config=FitConfig(epochs=2, progress=False))
        >>> fitted.test.shape, sorted(fitted.scores), fitted.model
        ((30, 4, 4), ['test', 'train', 'validation'], ImageFlow(1 x 4 x 4, 8 levels))
    """

    model: ImageFlow
    result: FitResult
    split: Split
    images: np.ndarray
    labels: np.ndarray | None
    scores: dict[str, dict[str, float]]
    audit: Audit | None

    @property
    def train(self) -> np.ndarray:
        """Images that were trained on."""
        return self.images[self.split.train]

    @property
    def validation(self) -> np.ndarray:
        """Images used for early stopping."""
        return self.images[self.split.validation]

    @property
    def test(self) -> np.ndarray:
        """Images that training never saw."""
        return self.images[self.split.test]


def image_config(images: int, **changes: Any) -> FitConfig:
    """Settings of training that suit a number of training images: batches of 64, of 128 from 20,000 images on."""
    defaults: dict[str, Any] = {"batch_size": 64 if images < 20_000 else 128, "patience": 20, "clip_norm": 50.0}
    return FitConfig(**{**defaults, **changes})


def fit_images(
    images: Any,
    labels: Any = None,
    *,
    recipe: str | Callable[..., Flow] = "glow",
    recipe_args: Mapping[str, Any] | None = None,
    levels: int | None = None,
    layout: Layout | None = None,
    noise: Flow | Literal["uniform", "learned"] = "uniform",
    test_fraction: float = 0.1,
    config: FitConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    audit: bool = True,
) -> ImageFit:
    """Fit a normalizing flow to images with whole-number pixels.

    Images are split by content into training, validation (``config.validation_fraction``) and test parts: equal images go
    to the same part. The flow models continuous pixels in data units; training maximises the dequantized bound with fresh
    noise in every step.

    Args:
        images: ``(n, height, width)`` grey, ``(n, height, width, channels)`` or ``(n, channels, height, width)``; whole
            numbers, or floats in [0, 1].
        labels: ``(n,)`` classes to condition on; None for an unconditional model.
        recipe: Name of a recipe for images, or a function ``(shape, context, levels=..., **recipe_args) -> Flow``.
        recipe_args: Keywords of the recipe.
        levels: Number of levels of a pixel; None for 256, or one more than the largest pixel if that is below 64.
        layout: "HW", "HWC" or "CHW"; None decides by the shape: an axis of 1 to 4 at the end, or else behind the first.
        noise: Dequantization: "uniform", "learned" (``pixel_noise``, trained together with the flow), or a flow of your
            own, see ``Dequantized``.
        test_fraction: Part of the images that training never sees.
        config: Settings of training; None for ``image_config``.
        dtype: Precision of training and of the model.
        device: Where to train.
        out: Run folder for model, schema, metrics and checkpoints; None writes nothing.
        resume: Go on from the last checkpoint in ``out``.
        callbacks: Watchers of the training loop.
        audit: Check the fitted flow.

    Raises:
        DataError, DomainError, NonFiniteError: If the images or labels cannot be used; the remedy is named.
        ConfigError: On contradictory arguments, a recipe for tables, or sizes that the recipe cannot divide.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 8, (300, 4, 4))
        >>> fit_images(images, recipe="nsf")
        Traceback (most recent call last):
        ...
        bijectory.errors.ConfigError: recipe 'nsf' models rows of tables; use fit_table, or a recipe for images: ...
    """
    check(0 <= test_fraction < 1, ConfigError, f"test_fraction={test_fraction} must be in [0, 1).")
    array, schema, y = look(images, labels, levels, layout)
    settings = config or image_config(len(array))
    core = _build(recipe, schema, recipe_args, settings.seed)
    density = Dequantized(core, schema.levels, _noise(noise, schema, settings.seed)).to(device=device, dtype=dtype)
    settings = settings.replace(out=out if out is not None else settings.out, resume=resume or settings.resume)
    split = split_images(array, settings.validation_fraction, test_fraction, settings.seed)
    counts = np.bincount(y[split.train], minlength=len(schema.classes)) if y is not None else ()
    schema = schema.model_copy(update={"counts": tuple(int(k) for k in counts)})
    if not len(split.validation):
        settings = settings.replace(validation_fraction=0.0)
    if settings.out is not None:
        _store(settings.out, schema, array, y, split)

    def part(index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        c = None if y is None else torch.from_numpy(np.eye(len(schema.classes))[y[index]]).to(dtype)
        return torch.from_numpy(array[index]).to(dtype), c

    held = Batch(*part(split.validation)) if len(split.validation) else ()
    data = Data(*Batch(*part(split.train)), *held)
    result = fit(density, data, objective=dequantized_nll, config=settings, callbacks=callbacks)  # type: ignore[arg-type]
    model = ImageFlow(density, schema)
    shown = schema.decode(array)
    names = None if y is None else np.array(schema.classes)[y]
    scores = _scores(model, shown, names, split)
    density.cpu()
    found = None
    if audit and result.stop_reason != "non_finite":
        held_out = next(rows for rows in (split.test, split.validation, split.train) if len(rows) > 1)[:AUDITED]
        found = model.audit(shown[held_out], None if names is None else names[held_out], seed=settings.seed)
    if settings.out is not None:
        facts = {
            "recipe": recipe if isinstance(recipe, str) else recipe.__name__,
            "noise": noise if isinstance(noise, str) else "own",
            "stop_reason": result.stop_reason,
            "best_epoch": result.best_epoch,
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "compilation": result.compilation,
            "scores": scores,
        }
        model.save(settings.out, metadata=facts)
        if found is not None:
            atomic_write(settings.out / AUDIT, [json.dumps(found.to_dict(), indent=2, allow_nan=False).encode()])
    return ImageFit(model, result, split, shown, names, scores, found)


def load_images(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The images that a run folder keeps, with their labels: "train", "validation", "test".

    Raises:
        DataError: If it keeps none.
        CheckpointError: If the schema is missing or damaged.
    """
    schema, path = ImageSchema.load(Path(folder) / SCHEMA), Path(folder) / SPLITS
    check(path.exists(), DataError, f"{folder} has no {SPLITS}; fit again with out={str(folder)!r}.")
    try:
        stored = load_file(path)
        found = {p: (schema.decode(stored[p]), stored.get(f"{p}_labels")) for p in PARTS}
    except Exception as error:  # safetensors has its own family of errors
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None
    names = np.array(schema.classes)
    return {p: (x, None if y is None else names[y]) for p, (x, y) in found.items()}


def look(
    images: Any, labels: Any, levels: int | None, layout: Layout | None
) -> tuple[np.ndarray, ImageSchema, np.ndarray | None]:
    """Levels ``(n, channels, height, width)``, what is known about them, and the number of the class of each."""
    x = np.asarray(images)
    order = find_layout(x.shape)
    if layout is not None:
        check(layout in ("HW", "HWC", "CHW"), ConfigError, f"layout={layout!r}; use 'HW', 'HWC' or 'CHW'.")
        check(
            x.ndim == len(layout) + 1,
            DataError,
            f"images of layout {layout} have {len(layout) + 1} axes, got {x.shape}.",
        )
        order = layout
    check(
        len(x) >= 2,
        DataError,
        f"Found array with {len(x)} image(s) (shape={x.shape}) while a minimum of 2 is required.",
    )
    notes = []
    if levels is None:
        levels = find_levels(x)
        if levels != 256:
            notes.append(f"the largest pixel is {levels - 1}: {levels} levels (pass levels=256 if there are more).")
    array = channels_first(to_levels(x, levels), order)
    y, classes = find_classes(labels, len(x))
    shape = (array.shape[1], array.shape[2], array.shape[3])
    schema = ImageSchema(shape=shape, levels=levels, layout=order, classes=classes, notes=tuple(notes), images=len(x))
    return array, schema, y


def _build(recipe: str | Callable[..., Flow], schema: ImageSchema, args: Mapping[str, Any] | None, seed: int) -> Flow:
    build = recipe
    if isinstance(recipe, str):
        found = find_recipe(recipe)
        known = ", ".join(sorted(name for name, r in RECIPES.items() if r.event == "image"))
        message = f"recipe {recipe!r} models rows of tables; use fit_table, or a recipe for images: {known}."
        check(found.event == "image", ConfigError, message)
        build = found.build
    with seeded(seed):
        try:
            return build(schema.shape, len(schema.classes), **{"levels": schema.levels, **(args or {})})  # type: ignore[operator]
        except TypeError as error:
            raise ConfigError(f"recipe {recipe!r}: {error}; see its keywords with help().") from None


def _noise(noise: Flow | str, schema: ImageSchema, seed: int) -> Flow | None:
    if isinstance(noise, Flow):
        return noise
    check(noise in ("uniform", "learned"), ConfigError, f"noise={noise!r}; use 'uniform', 'learned' or a flow.")
    with seeded(seed):
        return pixel_noise(schema.shape) if noise == "learned" else None


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and leave its global generator untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def split_images(array: np.ndarray, validation: float, test: float, seed: int) -> Split:
    """Split by a seeded hash of the pixels of each image."""
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest() for image in array)
    keys = np.frombuffer(b"".join(digests), dtype=np.uint64)
    return split_keys(keys, validation=validation, test=test)


def _scores(
    model: ImageFlow, images: np.ndarray, labels: np.ndarray | None, split: Split
) -> dict[str, dict[str, float]]:
    out = {}
    for part in PARTS:
        index = thin(getattr(split, part), SCORED)
        if len(index) > 1:
            s = model.score(images[index], None if labels is None else labels[index])
            error = float(s.std(ddof=1) / np.sqrt(len(s)))
            out[part] = {"images": len(s), "bits_per_dim": float(s.mean()), "standard_error": error}
    return out


def thin(index: np.ndarray, most: int) -> np.ndarray:
    """Evenly spaced members of a long part."""
    return index[np.linspace(0, len(index) - 1, min(len(index), most)).round().astype(int)]


def _store(out: Path, schema: ImageSchema, array: np.ndarray, y: np.ndarray | None, split: Split) -> None:
    out.mkdir(parents=True, exist_ok=True)
    schema.save(out / SCHEMA)
    small = np.uint8 if schema.levels <= 256 else np.uint16
    most = max(2, KEPT_BYTES // (schema.dims * np.dtype(small).itemsize))
    parts = {}
    for name in PARTS:
        index = thin(getattr(split, name), most)
        parts[name] = np.ascontiguousarray(array[index].astype(small))
        if y is not None:
            parts[f"{name}_labels"] = y[index].astype(np.int64)
    atomic_write(out / SPLITS, [save(parts)])
