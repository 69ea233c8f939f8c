"""Variational autoencoders whose posteriors and priors are flows."""

from bijectory.apps.vae.bounds import ActiveUnits, LogLikelihood
from bijectory.apps.vae.build import build_vae
from bijectory.apps.vae.fit import ElboHistory, VaeFit, fit_vae, vae_config
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
from bijectory.apps.vae.run import VaeModel, load_parts
from bijectory.apps.vae.schema import VaeSchema

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "VAE",
    "ActiveUnits",
    "BernoulliPixels",
    "CategoricalLevels",
    "Elbo",
    "ElboHistory",
    "GaussianValues",
    "Likelihood",
    "LogLikelihood",
    "LogisticLevels",
    "VaeFit",
    "VaeModel",
    "VaeSchema",
    "amortized_posterior",
    "build_vae",
    "fit_vae",
    "load_parts",
    "vae_config",
]
