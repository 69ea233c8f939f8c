"""A fitted distribution of images: arrays in, arrays out; bits per dimension, samples, latents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from bijectory.apps.images.schema import ImageSchema
from bijectory.apps.kind import SCHEMA
from bijectory.apps.latents import latent_path
from bijectory.apps.table_flow import readable
from bijectory.densities import Audit, Dequantized, Flow, StandardNormal, bits_per_dim
from bijectory.errors import CheckpointError, ConfigError, DataError, ShapeError, check, check_type
from bijectory.io import load, save
from bijectory.io.card import model_card
from bijectory.io.fs import atomic_write

CHUNK_VALUES = 1 << 17  # pixels that go through the flow at a time: bounds the memory of its activations


class ImageFlow:
    r"""A dequantized flow with the shape, the layout and the classes of its images.

    Scores are lower bounds on log-probabilities of whole-number pixels, in bits per dimension, the same in every call.
    Latents are those of the middle of each pixel's cell, so that ``decode(encode(x))`` gives back every pixel.

    Args:
        density: Distribution of levels ``(channels, height, width)``, made of a flow.
        schema: Shape, levels, layout, classes.

    Attributes:
        density: The distribution.
        flow: Its flow of continuous pixels in ``[0, levels)``.
        schema: The facts about the images.

    Example:
        >>> from bijectory import Chain, Elementwise, Logit, Reshape
        >>> chain = Chain(Reshape((1, 4, 4), (16,)), Elementwise(Logit(0.0, 17.0), 16))
        >>> density = Dequantized(Flow(chain, StandardNormal(16)), levels=17)
        >>> model = ImageFlow(density, ImageSchema(shape=(1, 4, 4), levels=17, layout="HW"))
        >>> images = model.sample(3, seed=0)
        >>> images.shape, images.dtype, model.score(images).shape
        ((3, 4, 4), dtype('uint8'), (3,))
        >>> bool((model.decode(model.encode(images)) == images).all())
        True
    """

    def __init__(self, density: Dequantized, schema: ImageSchema) -> None:
        check_type(density, Dequantized, "density")
        check_type(density.flow, Flow, "density.flow")
        check(
            tuple(density.event_shape) == schema.shape and density.levels == schema.levels,
            ShapeError,
            f"the model has events {tuple(density.event_shape)} of {density.levels} levels, the schema {schema.shape} of "
            f"{schema.levels}.",
        )
        self.density, self.schema = density.eval(), schema

    @property
    def flow(self) -> Flow:
        """The flow of continuous pixels."""
        return self.density.flow  # type: ignore[return-value]  # checked above

    def __repr__(self) -> str:
        channels, height, width = self.schema.shape
        classes = f", {len(self.schema.classes)} classes" if self.schema.classes else ""
        return f"ImageFlow({channels} x {height} x {width}, {self.schema.levels} levels{classes})"

    # -- scores --------------------------------------------------------------------------------------------------------

    def score(self, images: Any, labels: Any = None, *, samples: int | None = None) -> np.ndarray:
        """Bits per dimension of each image, ``(n,)``: an upper bound on the length of a code, lower is likelier.

        Args:
            images: ``(n, ...)`` in the layout of the training images.
            labels: For a class-conditional model one label, or one for each image; without labels the score is that of
                the mixture of the classes.
            samples: Noise samples; more than one gives a tighter bound and costs as many passes.
        """
        return bits_per_dim(self.log_prob(images, labels, samples=samples), self.schema.shape)

    def log_prob(self, images: Any, labels: Any = None, *, samples: int | None = None) -> np.ndarray:
        """Bound on the log-probability of each image in nats, ``(n,)``; arguments as in ``score``."""
        x = self.schema.encode(images)
        if self.schema.classes and labels is None:
            prior = np.log(np.maximum(self.schema.counts, 1e-12) / np.sum(self.schema.counts))
            return logsumexp(self._class_log_prob(x, samples) + prior, axis=1)
        return self._log_prob(x, self.schema.context(labels, len(x)), samples)

    def class_log_prob(self, images: Any, *, samples: int | None = None) -> np.ndarray:
        """Bound on the log-probability of each image given each class, ``(n, classes)``: what a classifier compares."""
        check(bool(self.schema.classes), ConfigError, "this model has no classes; fit it with labels.")
        return self._class_log_prob(self.schema.encode(images), samples)

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self, n: int, *, label: Any = None, temperature: float = 1.0, seed: int | None = None) -> np.ndarray:
        """Draw images, ``(n, ...)`` in the layout of the training images.

        Args:
            n: Number of images.
            label: For a class-conditional model one label, or one for each image; None draws classes as they were frequent.
            temperature: Factor on the latents: below 1 likelier, smoother, less varied images (the density of the
                draws is then not that of the model).
            seed: Seed; None takes the global generator of torch.
        """
        whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        check(whole, ConfigError, f"n must be a non-negative int, got {n!r}.")
        check(temperature >= 0, ConfigError, f"temperature must not be negative, got {temperature}.")
        normal = temperature == 1 or isinstance(self.flow.base, StandardNormal)
        check(normal, ConfigError, f"a temperature needs a StandardNormal base, not a {type(self.flow.base).__name__}.")
        generator = None if seed is None else torch.Generator(self._device()).manual_seed(seed)
        if self.schema.classes and label is None:
            label = self.draw_labels(int(n), seed=seed)
        c = self.schema.context(label, int(n)) if n else None
        out = np.empty((int(n), *self.schema.shape), dtype=np.int32)
        with torch.inference_mode():
            for part in self._chunks(int(n)):
                z = self.flow.base.sample(part.stop - part.start, generator=generator)
                out[part] = self._levels(temperature * z, None if c is None else c[part])
        return self.schema.decode(out)

    def draw_labels(self, n: int, *, seed: int | None = None) -> list[int | str]:
        """Draw classes as frequent as in training, those of ``sample`` with the same seed."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        weights = torch.tensor(self.schema.counts, dtype=torch.float64)
        drawn = torch.multinomial(weights, n, replacement=True, generator=generator) if n else torch.empty(0)
        return [self.schema.classes[int(k)] for k in drawn.tolist()]

    # -- latents -------------------------------------------------------------------------------------------------------

    def encode(self, images: Any, labels: Any = None) -> np.ndarray:
        """Data -> latent, ``(n, d)``; standard normal where the model is right."""
        x = self.schema.encode(images)
        c = self.schema.context(labels, len(x))
        out = np.empty((len(x), self.schema.dims), dtype=np.float64)
        with torch.inference_mode():
            for part in self._chunks(len(x)):
                z, _ = self.flow.to_latent(self._tensor(x[part]) + 0.5, self._context(c, part))
                out[part] = z.flatten(1).double().cpu().numpy()
        return out

    def decode(self, z: Any, labels: Any = None) -> np.ndarray:
        """Latent -> data: the images whose pixels hold what the flow makes of ``z``, ``(n, d)``."""
        z = np.asarray(z, dtype=np.float64)
        ok = z.ndim == 2 and z.shape[1] == self.schema.dims
        check(ok, ShapeError, f"z has shape {z.shape}, expected (n, {self.schema.dims}).")
        c = self.schema.context(labels, len(z))
        out = np.empty((len(z), *self.schema.shape), dtype=np.int32)
        with torch.inference_mode():
            for part in self._chunks(len(z)):
                latent = self._tensor(z[part]).unflatten(1, self.flow.base.event_shape)
                out[part] = self._levels(latent, None if c is None else c[part])
        return self.schema.decode(out)

    def interpolate(self, a: Any, b: Any, steps: int = 8, *, label: Any = None) -> np.ndarray:
        """Images on the way from ``a`` to ``b`` through latent space, both included, ``(steps, ...)``.

        With a normal base along a great circle, else along a straight line; see ``latents.latent_path``.

        Args:
            a: One image.
            b: Another one.
            steps: Number of images, at least 2.
            label: Class of both, for a class-conditional model.
        """
        check(steps >= 2, ConfigError, f"steps must be at least 2, got {steps}.")
        z = self.encode(np.stack([np.asarray(a), np.asarray(b)]), label)
        normal = isinstance(self.flow.base, StandardNormal)
        return self.decode(latent_path(z[0], z[1], steps, spherical=normal), label)

    def attribute_vector(self, images_with: Any, images_without: Any, *, label: Any = None) -> np.ndarray:
        """Direction of an attribute in latent space, ``(d,)``: mean latent of images that have it minus that of others.

        References:
            Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, sec. 5.3.
        """
        return self.encode(images_with, label).mean(0) - self.encode(images_without, label).mean(0)

    def shift(self, images: Any, vector: Any, amount: float = 1.0, *, label: Any = None) -> np.ndarray:
        """Give an image (or several) more or, with a negative amount, less of an attribute; amount 0 changes no pixel."""
        array = np.asarray(images)
        one = array.shape == self.schema.array_shape
        z = self.encode(array[None] if one else array, label) + amount * np.asarray(vector)
        shifted = self.decode(z, label)
        return shifted[0] if one else shifted

    # -- the run folder ------------------------------------------------------------------------------------------------

    def audit(self, images: Any, labels: Any = None, *, seed: int = 0) -> Audit:
        """Audit the flow on images (best held-out ones), with noise in their cells; see ``Flow.check``."""
        x = self.schema.encode(images)
        u = np.random.default_rng(seed).uniform(0.01, 0.99, x.shape)
        return self.flow.check(self._tensor(x + u), self._context(self.schema.context(labels, len(x))), seed=seed)

    def save(self, folder: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
        """Write the run folder: ``schema.json``, ``config.json``, ``model.safetensors``, ``README.md`` (the model card)."""
        folder = Path(folder)
        save(self.density, folder, metadata=metadata)
        self.schema.save(folder / SCHEMA)
        facts: dict[str, Any] = {"levels": self.schema.levels, "images": self.schema.images}
        if self.schema.classes:
            facts["classes"] = ", ".join(map(str, self.schema.classes))
        card = model_card(self.density, {**readable(metadata or {}), **facts}, name=folder.name)
        atomic_write(folder / "README.md", [card.encode()])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            CheckpointError: If a file is missing, altered, does not belong to the others, or the run is of a table.
        """
        schema = ImageSchema.load(Path(folder) / SCHEMA)
        density = load(folder)
        ok = isinstance(density, Dequantized) and isinstance(density.flow, Flow)
        check(ok, CheckpointError, f"{folder} holds a {type(density).__name__}, not a dequantized flow; fit again.")
        return cls(density, schema)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _class_log_prob(self, x: np.ndarray, samples: int | None) -> np.ndarray:
        one_hot = np.eye(len(self.schema.classes))
        return np.stack([self._log_prob(x, np.tile(c, (len(x), 1)), samples) for c in one_hot], axis=1)

    def _log_prob(self, x: np.ndarray, c: np.ndarray | None, samples: int | None) -> np.ndarray:
        out = np.empty(len(x))
        with torch.inference_mode():
            for part in self._chunks(len(x), samples or self.density.samples):
                value = self.density.log_prob(self._tensor(x[part]), self._context(c, part), samples=samples)
                out[part] = value.double().cpu().numpy()
        return out

    def _levels(self, z: Tensor, c: np.ndarray | None) -> np.ndarray:
        x = self.density.quantize(self.flow.to_data(z, self._context(c))[0])
        check(not bool(x.isnan().any()), DataError, "the flow maps these latents to NaN; use smaller ones.")
        return x.cpu().numpy()

    def _device(self) -> torch.device:
        return self._like().device

    def _like(self) -> Tensor:
        tensors = (t for t in [*self.flow.parameters(), *self.flow.buffers()] if t.is_floating_point())
        return next(tensors, torch.empty(0))

    def _tensor(self, values: np.ndarray) -> Tensor:
        like = self._like()
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)

    def _context(self, c: np.ndarray | None, part: slice = slice(None)) -> Tensor | None:
        return None if c is None else self._tensor(c[part])

    def _chunks(self, n: int, copies: int = 1) -> Iterator[slice]:
        rows = max(1, CHUNK_VALUES // (self.schema.dims * copies))
        for start in range(0, n, rows):
            yield slice(start, min(start + rows, n))
