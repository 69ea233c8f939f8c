"""How observations are read before anything learns from them: standardised, missing values told, embedded."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bijectory.densities import Encode
from bijectory.errors import ConfigError, check
from bijectory.nets import (
    ImageEmbedding,
    MissingIndicator,
    MissingRestored,
    SeriesEmbedding,
    SetEmbedding,
    VectorEmbedding,
)
from bijectory.transforms import Standardize

Embed = str | nn.Module | Callable[[], nn.Module] | None
OUTPUTS = 16  # of the embeddings that are asked for by name
BUILT_IN: dict[str, tuple[Callable[..., nn.Module], int, str]] = {
    "vector": (VectorEmbedding, 1, "(features,)"),
    "series": (SeriesEmbedding, 2, "(steps, features)"),
    "set": (SetEmbedding, 2, "(elements, features)"),
    "image": (ImageEmbedding, 3, "(channels, height, width)"),
}
PROBES = 64  # observations that an embedding is tried on before anything is trained


class Eyes:
    """How observations are read: standardised, missing values told, then embedded.

    Args:
        x: Observations ``(n, *event)``, NaN where values are missing.
        embed: See ``fit_npe``.

    Raises:
        ConfigError: If the embedding does not suit the observations.
    """

    def __init__(self, x: Tensor, embed: Embed) -> None:
        self.embed = _factory(embed, x)
        # Images have one scale for all pixels; series, sets and vectors one for each feature of a step.
        flat = x.reshape(-1, 1) if x.dim() > 3 else x.reshape(-1, x.shape[-1])
        loc = flat.nanmean(0)
        scale = (flat - loc).square().nanmean(0).sqrt()
        still = ~(scale > 1e-12 * loc.abs())  # constant, or never there
        rescale = Standardize(flat.shape[1], loc.nan_to_num(), torch.where(still, 1.0, scale)).double()
        steps: list[nn.Module] = [Encode(rescale)]
        if x.isnan().any():
            remedy = "fill them in, or use missing='drop'"
            check(x.dim() < 4, ConfigError, f"observations {tuple(x.shape[1:])} have missing values: {remedy}.")
            steps.append(MissingIndicator(x.shape[-1]))
        self.first = nn.Sequential(*steps)
        self.width = x.shape[1] * len(steps) if x.dim() == 2 else 0
        emptiest = x.flatten(1).isnan().sum(1).topk(min(PROBES, len(x))).indices
        self.probe = self.encode(x[emptiest]).float()

    def encode(self, x: Tensor) -> Tensor:
        """What networks are trained on."""
        with torch.no_grad():
            out: Tensor = self.first(x)
        return out

    def open(self) -> tuple[nn.Module | None, int]:
        """A fresh embedding, tried on a few observations, and the width of what it gives."""
        if self.embed is None:
            return None, self.width
        net = self.embed()
        name = type(net).__name__
        check(isinstance(net, nn.Module), ConfigError, f"embed made a {name}; it must make a torch.nn.Module.")
        training = net.training
        try:
            with torch.no_grad():
                found = net.eval()(self.probe)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            first = (str(error).splitlines() or [""])[0]
            why = ", values then indicators of missing ones on the last axis" if len(self.first) > 1 else ""
            message = f"the embedding {name} cannot read observations {tuple(self.probe.shape)}{why}: {first}"
            raise ConfigError(message) from error
        net.train(training)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        fits = isinstance(found, Tensor) and found.dim() == 2 and len(found) == len(self.probe)
        check(fits, ConfigError, f"the embedding {name} gave {shape}; expected ({len(self.probe)}, width).")
        remedy = "use missing='drop', or fill the values in" if len(self.first) > 1 else "check it"
        message = f"the embedding {name} gives values that are not finite: {remedy}."
        check(bool(found.isfinite().all()), ConfigError, message)
        return net, found.shape[1]


def _set(features: int, *, missing: bool) -> nn.Module:
    """Elements that are missing throughout are absent, so that sets may have different sizes."""
    net = SetEmbedding(features, OUTPUTS)
    return nn.Sequential(MissingRestored(features), net) if missing else net


def _factory(embed: Embed, x: Tensor) -> Callable[[], nn.Module] | None:
    shape, names = tuple(x.shape[1:]), ", ".join(BUILT_IN)
    if embed is None:
        check(x.dim() == 2, ConfigError, f"observations of shape {shape} need embed=...: {names}, or a module.")
        return None
    if isinstance(embed, str):
        check(embed in BUILT_IN, ConfigError, f"embed={embed!r}; use one of {names}, or a module.")
        make, dims, event = BUILT_IN[embed]
        check(len(shape) == dims, ConfigError, f"embed={embed!r} reads observations {event}; they have shape {shape}.")
        missing = bool(x.isnan().any())
        if embed == "set":
            return functools.partial(_set, shape[-1], missing=missing)
        width = shape[0] if embed == "image" else shape[-1] * (1 + missing)
        return functools.partial(make, width, OUTPUTS)
    if isinstance(embed, nn.Module):
        return functools.partial(copy.deepcopy, embed)
    check(callable(embed), ConfigError, f"embed is a {type(embed).__name__}; use one of {names}, or a module.")
    return embed
