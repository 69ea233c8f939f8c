"""Tables: columns of data frames and files, and the counted way from their units to those of a flow and back."""

from bijectory.tables.frame import DataWarning, check_columns, to_frame, to_matrix
from bijectory.tables.inspect import infer_schema
from bijectory.tables.prepare import preprocess
from bijectory.tables.read import read_table
from bijectory.tables.schema import Column, Schema
from bijectory.tables.split import Split, split_rows
from bijectory.tables.stream import TableWriter, read_parts, write_parts

__all__ = [
    "Column",
    "DataWarning",
    "Schema",
    "Split",
    "TableWriter",
    "check_columns",
    "infer_schema",
    "preprocess",
    "read_parts",
    "read_table",
    "split_rows",
    "to_frame",
    "to_matrix",
    "write_parts",
]
