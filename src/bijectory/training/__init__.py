"""Training: one loop that is hard to break."""

from bijectory.objectives import Batch
from bijectory.training.anneal import Anneal
from bijectory.training.callbacks import Callback
from bijectory.training.config import FitConfig
from bijectory.training.data import Data
from bijectory.training.ensemble import fit_ensemble
from bijectory.training.fit import fit
from bijectory.training.state import FitResult

__all__ = [
    "Anneal",
    "Batch",
    "Callback",
    "Data",
    "FitConfig",
    "FitResult",
    "fit",
    "fit_ensemble",
]
