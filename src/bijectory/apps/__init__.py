"""From a problem to an answer, on the public surface only."""

from bijectory.apps.calibration import Calibration, calibration_of, crps_of_draws
from bijectory.apps.distillation import Distillation, distill, distill_table
from bijectory.apps.estimator import FlowDensity, FlowOutlier
from bijectory.apps.images import (
    ImageFit,
    ImageFlow,
    Images,
    ImageSchema,
    fit_images,
    image_config,
    load_images,
    read_images,
)
from bijectory.apps.kind import run_kind
from bijectory.apps.latents import (
    RoundTrip,
    counterfactual,
    interpolate,
    latent_path,
    mean_direction,
    round_trip,
    shift,
)
from bijectory.apps.predictive import Predictive
from bijectory.apps.query import Marginal, Query, conditional
from bijectory.apps.regression import ConditionalFlow
from bijectory.apps.solvers import SolverCheck, check_solver, solved_layers, tune_solver, with_solver
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import TableFit, fit_table, load_rows, table_config

__all__ = [
    "Calibration",
    "ConditionalFlow",
    "Distillation",
    "FlowDensity",
    "FlowOutlier",
    "ImageFit",
    "ImageFlow",
    "ImageSchema",
    "Images",
    "Marginal",
    "Predictive",
    "Query",
    "RoundTrip",
    "SolverCheck",
    "TableFit",
    "TableFlow",
    "calibration_of",
    "check_solver",
    "conditional",
    "counterfactual",
    "crps_of_draws",
    "distill",
    "distill_table",
    "fit_images",
    "fit_table",
    "image_config",
    "interpolate",
    "latent_path",
    "load_images",
    "load_rows",
    "mean_direction",
    "read_images",
    "round_trip",
    "run_kind",
    "shift",
    "solved_layers",
    "table_config",
    "tune_solver",
    "with_solver",
]
