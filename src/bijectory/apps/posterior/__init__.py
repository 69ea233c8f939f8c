"""Simulation-based inference: from a simulator and a prior to a posterior that has been checked."""

from bijectory.apps.posterior.bands import Uniformity, uniformity
from bijectory.apps.posterior.base import CredibleRegion, Posterior
from bijectory.apps.posterior.diagnose import (
    CalibrationTest,
    LocalTest,
    Ranked,
    coverage,
    local_c2st,
    predictive_p,
    rank,
    sbc,
    tarp,
)
from bijectory.apps.posterior.likelihood import SampledPosterior, fit_nle, fit_nre
from bijectory.apps.posterior.neural import NeuralPosterior, PosteriorFit, fit_npe, posterior_config
from bijectory.apps.posterior.prior import Prior, as_prior, box_uniform
from bijectory.apps.posterior.recalibrate import recalibrate
from bijectory.apps.posterior.sequential import fit_sequentially
from bijectory.apps.posterior.simulations import Simulations, pad_sets, simulate
from bijectory.apps.posterior.store import load_simulations, save_simulations
from bijectory.apps.posterior.study import Study, study

__all__ = [
    "CalibrationTest",
    "CredibleRegion",
    "LocalTest",
    "NeuralPosterior",
    "Posterior",
    "PosteriorFit",
    "Prior",
    "Ranked",
    "SampledPosterior",
    "Simulations",
    "Study",
    "Uniformity",
    "as_prior",
    "box_uniform",
    "coverage",
    "fit_nle",
    "fit_npe",
    "fit_nre",
    "fit_sequentially",
    "load_simulations",
    "local_c2st",
    "pad_sets",
    "posterior_config",
    "predictive_p",
    "rank",
    "recalibrate",
    "save_simulations",
    "sbc",
    "simulate",
    "study",
    "tarp",
    "uniformity",
]
