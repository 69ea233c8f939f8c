"""From a problem to an answer, on the public surface only."""

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
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import TableFit, fit_table, load_rows, table_config
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
    "Diagnostics",
    "Estimate",
    "FlowDensity",
    "FlowOutlier",
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
    "TableFit",
    "TableFlow",
    "ess",
    "fit_images",
    "fit_posterior",
    "fit_table",
    "image_config",
    "infer",
    "load_images",
    "load_rows",
    "pareto_fit",
    "psis",
    "read_images",
    "read_model",
    "rhat",
    "run_kind",
    "table_config",
    "variational_config",
    "write_run",
]
