"""Variational inference: a flow fitted to an unnormalised log-density, weighed, diagnosed and corrected."""

from bijectory.apps.variational.chains import Chains
from bijectory.apps.variational.convergence import ess, rhat
from bijectory.apps.variational.diagnostics import Diagnostics, Mode
from bijectory.apps.variational.fit import fit_posterior, variational_config
from bijectory.apps.variational.joint import Joint
from bijectory.apps.variational.model_file import infer, read_model, write_run
from bijectory.apps.variational.parameters import Parameter, Parameters
from bijectory.apps.variational.posterior import VariationalPosterior

__all__ = [
    "Chains",
    "Diagnostics",
    "Joint",
    "Mode",
    "Parameter",
    "Parameters",
    "VariationalPosterior",
    "ess",
    "fit_posterior",
    "infer",
    "read_model",
    "rhat",
    "variational_config",
    "write_run",
]
