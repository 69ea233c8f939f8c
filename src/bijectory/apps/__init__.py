"""From a problem to an answer, on the public surface only."""

from bijectory.apps.estimator import FlowDensity, FlowOutlier
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import TableFit, fit_table, load_rows, table_config

__all__ = ["FlowDensity", "FlowOutlier", "TableFit", "TableFlow", "fit_table", "load_rows", "table_config"]
