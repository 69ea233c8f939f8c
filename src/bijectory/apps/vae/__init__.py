"""Variational autoencoders whose posteriors and priors are flows."""

from bijectory.apps.vae.bounds import ActiveUnits, LogLikelihood
from bijectory.apps.vae.build import build_vae
from bijectory.apps.vae.likelihoods import (
    LIKELIHOODS,
    BernoulliPixels,
    CategoricalLevels,
    GaussianValues,
    Likelihood,
    LogisticLevels,
)
from bijectory.apps.vae.model import VAE, Elbo
from bijectory.apps.vae.posteriors import POSTERIORS, amortized_posterior

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "VAE",
    "ActiveUnits",
    "BernoulliPixels",
    "CategoricalLevels",
    "Elbo",
    "GaussianValues",
    "Likelihood",
    "LogLikelihood",
    "LogisticLevels",
    "amortized_posterior",
    "build_vae",
]
