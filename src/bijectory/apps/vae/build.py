"""A variational autoencoder from names."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from bijectory.apps.vae.likelihoods import LIKELIHOODS, Likelihood
from bijectory.apps.vae.model import VAE
from bijectory.apps.vae.posteriors import amortized_posterior
from bijectory.densities import Density
from bijectory.errors import ConfigError, check
from bijectory.nets import DenseDecoder, DenseEncoder, GatedDecoder, GatedEncoder
from bijectory.recipes import find_recipe

Net = Literal["dense", "gated"]


def build_vae(
    event_shape: int | Sequence[int],
    *,
    latent: int = 32,
    posterior: str | Density = "diagonal",
    posterior_args: Mapping[str, Any] | None = None,
    likelihood: str = "bernoulli",
    net: Net = "dense",
    hidden: Sequence[int] = (300, 300),
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    prior: str | Density | None = None,
    prior_args: Mapping[str, Any] | None = None,
    levels: int = 0,
) -> VAE:
    """Build a ``VAE`` of built-in parts, or with networks and densities of your own.

    Args:
        event_shape: Shape of an event: ``(channels, height, width)``, or a number of columns.
        latent: Width of the latent.
        posterior: Name for ``amortized_posterior``, or a density of the latent given the code.
        posterior_args: Arguments of a posterior given by name.
        likelihood: "bernoulli", "gaussian", "logistic" or "categorical".
        net: "dense" perceptrons, or "gated" convolutions for images.
        hidden: Widths of the hidden layers of dense networks, the decoder's in reverse; of gated ones ``(channels, code)``,
            the default (32, 256) of the paper if not given.
        encoder: A module of your own ``(n, *event) -> (n, width)``; whole-number pixels come in as they are.
        decoder: A module of your own ``(n, latent) -> (n, n_params, *event)``.
        prior: None for the standard normal, the name of a recipe for rows, or a density.
        prior_args: Arguments of a recipe.
        levels: Number of levels of whole-number values, for "logistic" and "categorical"; built-in encoders scale them to
            [-1, 1].

    Raises:
        ConfigError: On an unknown name, or parts that do not fit.

    Example:
        >>> vae = build_vae((1, 8, 8), latent=4, posterior="iaf", prior="real_nvp", hidden=(32,))
        >>> vae.sample(2).shape
        torch.Size([2, 1, 8, 8])
    """
    shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
    check(latent >= 1, ConfigError, f"latent must be at least 1, got {latent}.")
    check(net in ("dense", "gated"), ConfigError, f"net={net!r}; use 'dense' or 'gated'.")
    kind = _known(likelihood, LIKELIHOODS, "likelihood")
    whole = likelihood in ("logistic", "categorical")
    check(
        not whole or levels >= 2, ConfigError, f"the {likelihood} likelihood needs levels, their number; got {levels}."
    )
    n_params = {"logistic": 2, "categorical": levels}.get(likelihood, 1)
    gated = (32, 256) if tuple(hidden) == (300, 300) else tuple(hidden)
    if net == "gated" and (encoder is None or decoder is None):
        check(len(gated) == 2, ConfigError, f"hidden={gated}: gated networks take (channels, width of the code).")
    scaled = levels if whole else 2 if likelihood == "bernoulli" else 0
    if encoder is None:
        encoder = (
            GatedEncoder(shape, gated[0], gated[1], scaled) if net == "gated" else DenseEncoder(shape, hidden, scaled)
        )
    if decoder is None:
        backwards = tuple(hidden)[::-1]
        gate = net == "gated"
        decoder = (
            GatedDecoder(latent, shape, n_params, gated[0])
            if gate
            else DenseDecoder(latent, shape, n_params, backwards)
        )
    built: Likelihood = kind(shape, latent, decoder, **({"levels": levels} if whole else {}))
    if isinstance(posterior, str):
        posterior = amortized_posterior(posterior, latent, code_width(encoder, shape), **(posterior_args or {}))
    else:
        check(not posterior_args, ConfigError, "posterior_args are for a posterior given by name.")
    if isinstance(prior, str):
        found = find_recipe(prior)
        check(found.event == "features", ConfigError, f"recipe {prior!r} models images; the prior is one of vectors.")
        prior = found.build(latent, **(prior_args or {}))
    else:
        check(not prior_args, ConfigError, "prior_args are for a prior given by name.")
    return VAE(encoder, posterior, built, prior)


def code_width(encoder: nn.Module, shape: Sequence[int]) -> int:
    """Width of the code that an encoder puts out for events of a shape.

    Raises:
        ConfigError: If it cannot take two of them, or its code is no vector.
    """
    known = getattr(encoder, "outputs", None)
    if isinstance(known, int):
        return known
    like = next(encoder.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            code = encoder(torch.zeros(2, *shape, dtype=like.dtype, device=like.device))
    except RuntimeError as error:
        raise ConfigError(f"the encoder does not take events (n, {', '.join(map(str, shape))}): {error}") from None
    ok = code.dim() == 2 and len(code) == 2
    check(
        ok,
        ConfigError,
        f"the encoder turns (2, {', '.join(map(str, shape))}) into {tuple(code.shape)}, not (2, width).",
    )
    return int(code.shape[1])


def _known(name: str, table: Mapping[str, Any], what: str) -> Any:
    near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(table)}."
    check(name in table, ConfigError, f"there is no {what} {name!r}; {hint}")
    return table[name]
