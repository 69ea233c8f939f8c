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

__all__ = [
    "Estimate",
    "FlowDensity",
    "FlowOutlier",
    "ImageFit",
    "ImageFlow",
    "ImageSchema",
    "Images",
    "ImportanceWarning",
    "ImportanceWeights",
    "TableFit",
    "TableFlow",
    "fit_images",
    "fit_table",
    "image_config",
    "load_images",
    "load_rows",
    "pareto_fit",
    "psis",
    "read_images",
    "run_kind",
    "table_config",
]
