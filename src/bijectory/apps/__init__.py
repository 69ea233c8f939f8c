"""From a problem to an answer, on the public surface only."""

from bijectory.apps.anomaly import (
    Detector,
    Explanation,
    benjamini_hochberg,
    code_length,
    conformal_p_values,
    perturb_rows,
)
from bijectory.apps.comparison import Comparison, compare
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
from bijectory.apps.importance import Estimate, ImportanceWarning, ImportanceWeights, pareto_fit, psis
from bijectory.apps.kind import run_kind
from bijectory.apps.ratio import DensityRatio, FlowRatio, check_ratio, fit_ratio, ratio_weights, two_sample_test
from bijectory.apps.solvers import SolverCheck, check_solver, solved_layers, tune_solver, with_solver
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import TableFit, fit_table, load_rows, table_config
from bijectory.apps.tuned_run import tune_run
from bijectory.apps.variational import (
    Chains,
    Diagnostics,
    Joint,
    Mode,
    Parameter,
    Parameters,
    Posterior,
    ess,
    fit_posterior,
    infer,
    read_model,
    rhat,
    variational_config,
    write_run,
)

__all__ = [
    "Chains",
    "Comparison",
    "DensityRatio",
    "Detector",
    "Diagnostics",
    "Distillation",
    "Estimate",
    "Explanation",
    "FlowDensity",
    "FlowOutlier",
    "FlowRatio",
    "ImageFit",
    "ImageFlow",
    "ImageSchema",
    "Images",
    "ImportanceWarning",
    "ImportanceWeights",
    "Joint",
    "Mode",
    "Parameter",
    "Parameters",
    "Posterior",
    "SolverCheck",
    "TableFit",
    "TableFlow",
    "benjamini_hochberg",
    "check_ratio",
    "check_solver",
    "code_length",
    "compare",
    "conformal_p_values",
    "distill",
    "distill_table",
    "ess",
    "fit_images",
    "fit_posterior",
    "fit_ratio",
    "fit_table",
    "image_config",
    "infer",
    "load_images",
    "load_rows",
    "pareto_fit",
    "perturb_rows",
    "psis",
    "ratio_weights",
    "read_images",
    "read_model",
    "rhat",
    "run_kind",
    "solved_layers",
    "table_config",
    "tune_run",
    "tune_solver",
    "two_sample_test",
    "variational_config",
    "with_solver",
    "write_run",
]
