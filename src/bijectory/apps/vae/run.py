"""A fitted autoencoder with its data: arrays in, arrays out, and the run folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from bijectory.apps.kind import SCHEMA
from bijectory.apps.table_flow import readable
from bijectory.apps.tabular import SPLITS
from bijectory.apps.vae.bounds import LogLikelihood
from bijectory.apps.vae.model import VAE, Elbo
from bijectory.apps.vae.schema import VaeSchema
from bijectory.errors import CheckpointError, ConfigError, DataError, ShapeError, check, check_type
from bijectory.io import load, save
from bijectory.io.card import model_card
from bijectory.io.fs import atomic_write

PARTS = ("train", "validation", "test")
ROWS = 512  # events that go through the networks at a time


class VaeModel:
    """A ``VAE`` with the layout, the levels and the binarization of its images, or the units of its rows.

    Args:
        vae: The model of events.
        schema: How data become events.

    Attributes:
        vae: The model, in evaluation mode.
        schema: The facts about the data.

    Example:
        >>> from bijectory.apps.vae import build_vae
        >>> vae = build_vae(2, latent=1, likelihood="gaussian", hidden=(8,))
        >>> model = VaeModel(vae, VaeSchema(loc=(0.0, 10.0), scale=(1.0, 2.0)))
        >>> rows = model.sample(5, seed=0)
        >>> rows.shape, model.log_likelihood(rows, samples=10).log_prob.shape, model.reconstruct(rows).shape
        ((5, 2), torch.Size([5]), (5, 2))
    """

    def __init__(self, vae: VAE, schema: VaeSchema) -> None:
        check_type(vae, VAE, "vae")
        got, want = tuple(vae.event_shape), schema.event_shape
        check(got == want, ShapeError, f"the model has events {got}, the schema {want}.")
        self.vae, self.schema = vae.eval(), schema

    def __repr__(self) -> str:
        what = "rows of " if self.schema.images is None else ""
        return f"VaeModel({what}{' x '.join(map(str, self.schema.event_shape))}, latent {self.vae.latent})"

    def log_likelihood(self, data: Any, samples: int = 1000, *, seed: int | None = 0) -> LogLikelihood:
        """Importance-weighted log-likelihood of each image or row, nats, in the units of the data; see ``VAE``."""
        found = self.vae.log_likelihood(self.tensor(self.schema.events(data)), samples, seed=seed)
        return LogLikelihood(found.log_prob + self.schema.log_volume, found.se, found.ess, found.samples)

    def elbo(self, data: Any, samples: int = 1, *, seed: int | None = 0) -> Elbo:
        """Evidence lower bound of each image or row with its terms, without gradients, nats, in the units of the data."""
        x = self.tensor(self.schema.events(data))
        generator = self._generator(seed)
        with torch.no_grad():
            terms = [self.vae.elbo(x[rows], samples=samples, generator=generator) for rows in _chunks(len(x))]
        bound, reconstruction, kl = (torch.cat(t).double() for t in zip(*terms, strict=True))
        volume = self.schema.log_volume
        return Elbo(bound + volume, reconstruction + volume, kl)

    def sample(self, n: int, *, seed: int | None = None, mean: bool = False) -> np.ndarray:
        """Draw images or rows in the layout of the data, ``(n, ...)``.

        Args:
            n: How many.
            seed: None takes the global generator of torch.
            mean: Means of ``p(x|z)`` at draws of the latent: grey where pixels are binary, smoother than the model.
        """
        whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        check(whole, ConfigError, f"n must be a non-negative int, got {n!r}.")
        return self.schema.decode(self.vae.sample(int(n), seed=seed, mean=mean).double().cpu().numpy())

    def encode(self, data: Any, samples: int = 1, *, seed: int | None = 0) -> np.ndarray:
        """Draws of the latent given each image or row, ``(samples, n, latent)``."""
        x, generator = self.tensor(self.schema.events(data)), self._generator(seed)
        draws = [self.vae.encode(x[rows], samples, generator=generator) for rows in _chunks(len(x))]
        return torch.cat(draws, 1).double().cpu().numpy()

    def decode(self, z: Any) -> np.ndarray:
        """Means of ``p(x|z)`` in the layout of the data, ``(n, latent) -> (n, ...)``."""
        z = np.asarray(z, dtype=np.float64)
        ok = z.ndim == 2 and z.shape[1] == self.vae.latent
        check(ok, ShapeError, f"z has shape {z.shape}, expected (n, {self.vae.latent}).")
        with torch.no_grad():
            return self.schema.decode(self.vae.decode(self.tensor(z)).double().cpu().numpy())

    def reconstruct(self, data: Any, *, seed: int | None = 0) -> np.ndarray:
        """What the decoder makes of one draw of the latent of each image or row."""
        return self.decode(self.encode(data, seed=seed)[0])

    def save(self, folder: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
        """Write the run folder: ``schema.json``, ``config.json``, ``model.safetensors``, ``README.md`` (the model card).

        Raises:
            CheckpointError: If a network of your own is not registered, see ``bijectory.register``.
        """
        folder = Path(folder)
        save(self.vae, folder, metadata=metadata)
        self.schema.save(folder / SCHEMA)
        facts = {k: v for k, v in (metadata or {}).items() if k != "history"}
        atomic_write(folder / "README.md", [model_card(self.vae, readable(facts), name=folder.name).encode()])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            CheckpointError: If a file is missing, altered, does not belong to the others, or the run is of another kind.
        """
        schema = VaeSchema.load(Path(folder) / SCHEMA)
        vae = load(folder)
        check(isinstance(vae, VAE), CheckpointError, f"{folder} holds a {type(vae).__name__}, not a VAE; fit again.")
        return cls(vae, schema)

    def tensor(self, values: np.ndarray) -> Tensor:
        """Numbers in the dtype and on the device of the model."""
        like = next(self.vae.parameters())
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)

    def _generator(self, seed: int | None) -> torch.Generator | None:
        return None if seed is None else torch.Generator(next(self.vae.parameters()).device).manual_seed(seed)


def load_parts(folder: str | Path) -> dict[str, np.ndarray]:
    """The images or rows that a run folder keeps, in the layout of the data: "train", "validation", "test".

    Raises:
        DataError: If it keeps none.
        CheckpointError: If the schema or the file is missing or damaged.
    """
    schema, path = VaeSchema.load(Path(folder) / SCHEMA), Path(folder) / SPLITS
    check(path.exists(), DataError, f"{folder} has no {SPLITS}; fit again with out={str(folder)!r}.")
    try:
        stored = load_file(path)
        found = {part: stored[part] for part in PARTS}
    except Exception as error:  # safetensors has its own family of errors
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None
    return found if schema.images is None else {k: schema.images.decode(x) for k, x in found.items()}


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, max(n, 1), ROWS):
        yield slice(start, start + ROWS)
