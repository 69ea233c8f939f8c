r"""Which part of an image makes it abnormal.

What a column is to a row, a patch is to an image. The contribution of patch :math:`P` is what the score loses when this
patch alone is replaced as well as possible,

.. math:: \Delta_P(x) = \max\bigl(0,\; s(x) - \min_v s(x_{-P}, v)\bigr),

with the contents :math:`v` that ordinary images have at the same place. For the negative log-likelihood it is the deficit
of the patch given the rest of the image. It works for every score, also for those that set right what the likelihood gets
wrong.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bijectory.errors import ConfigError, check

ACROSS = 7  # patches along the longer side, unless told otherwise
FILLS = 8
Scores = Callable[[NDArray[np.integer]], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class PatchExplanation:
    """What each patch contributes to each image's being abnormal.

    Attributes:
        nats: ``(n, rows, columns)`` contributions of the patches, at least 0, in the units of the score.
        patch: Side of a patch in pixels; patches at the lower and right edge may be smaller.
        images: ``(n, height, width[, channels])`` the images.

    Example:
        >>> found = PatchExplanation(np.array([[[0.0, 3.0], [1.0, 0.0]]]), 2, np.zeros((1, 4, 4), np.uint8))
        >>> found.text(), found.heat()[0, 0].tolist()
        (['rows 0-1, columns 2-3 (3.0 nats), rows 2-3, columns 0-1 (1.0 nats)'], [0.0, 0.0, 3.0, 3.0])
    """

    nats: NDArray[np.float64]
    patch: int
    images: NDArray[np.integer]

    def heat(self) -> NDArray[np.float64]:
        """The contribution of the patch of each pixel, ``(n, height, width)``."""
        height, width = self.images.shape[1:3]
        return self.nats.repeat(self.patch, axis=1).repeat(self.patch, axis=2)[:, :height, :width]

    def text(self, patches: int = 2) -> list[str]:
        """For each image the patches that contribute most: their pixels, counted from 0, and nats."""
        height, width = self.images.shape[1:3]
        out = []
        for nats in self.nats:
            places = [divmod(int(k), nats.shape[1]) for k in np.argsort(-nats, axis=None, kind="stable")[:patches]]
            words = []
            for i, j in ((i, j) for i, j in places if nats[i, j] > 0):
                (a, b), (c, d) = (
                    (k * self.patch, min((k + 1) * self.patch, n) - 1) for k, n in ((i, height), (j, width))
                )
                words.append(f"rows {a}-{b}, columns {c}-{d} ({nats[i, j]:.1f} nats)")
            out.append(", ".join(words))
        return out

    def picture(self, levels: int = 256) -> NDArray[np.uint8]:
        """Each image beside itself with the contributions in red, ``(2 n, height, width, 3)``: for ``images.grid``."""
        grey = self.images.reshape(*self.images.shape[:3], -1).astype(np.float64) / (levels - 1)
        grey = grey if grey.shape[-1] == 3 else grey.mean(-1, keepdims=True).repeat(3, axis=-1)
        heat = self.heat()
        share = (heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-12))[..., None]
        red = grey * (1 - 0.75 * share) + 0.75 * share * np.array([1.0, 0.1, 0.0])
        both = np.stack([grey, red], axis=1).reshape(-1, *grey.shape[1:])
        return (255 * both).round().clip(0, 255).astype(np.uint8)


def explain_images(
    score: Scores,
    images: NDArray[np.integer],
    reference: NDArray[np.integer],
    *,
    patch: int | None = None,
    fills: int = FILLS,
    seed: int = 0,
) -> PatchExplanation:
    """Contribution of every patch of every image, see the module.

    Costs ``fills`` scores for each patch (about 50 patches); pass the images in question, not all.

    Args:
        score: From images to scores ``(n,)``, larger for more abnormal ones.
        images: ``(n, height, width[, channels])``.
        reference: Ordinary images, which lend their patches.
        patch: Side of a patch; None for a seventh of the longer side.
        fills: Number of contents that are tried.
        seed: Seed of their choice.

    Raises:
        ConfigError: If the patch or the number of contents is not positive.
    """
    height, width = images.shape[1:3]
    side = -(-max(height, width) // ACROSS) if patch is None else patch
    check(side >= 1 and fills >= 1, ConfigError, f"patch={side} and fills={fills} must be at least 1.")
    rng = np.random.default_rng(seed)
    chosen = reference[rng.permutation(len(reference))[:fills]]
    rows, columns = -(-height // side), -(-width // side)
    nats = np.zeros((len(images), rows, columns))
    for image, found in zip(images, nats, strict=True):
        before = float(score(image[None])[0])
        tried = np.broadcast_to(image, (rows * columns, len(chosen), *image.shape)).copy()
        for k in range(rows * columns):
            i, j = (slice(p * side, (p + 1) * side) for p in divmod(k, columns))
            tried[k, :, i, j] = chosen[:, i, j]
        after = score(tried.reshape(-1, *image.shape)).reshape(rows, columns, len(chosen)).min(-1)
        found[:] = np.maximum(before - after, 0.0)
    return PatchExplanation(nats, side, images)
