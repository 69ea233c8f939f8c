"""Borders: torch.distributions both ways, samplers, ArviZ, Pyro, sbi, weights of zuko and nflows."""

import importlib
from types import ModuleType

from bijectory.interop.datatree import save_netcdf, to_datatree
from bijectory.interop.distributions import FlowTransform, TorchDensity, TorchTransform, as_density, kl_divergence
from bijectory.interop.nflows import from_nflows
from bijectory.interop.samplers import log_prob_function, prior_transform
from bijectory.interop.zuko import from_zuko

__all__ = [
    "FlowTransform",
    "TorchDensity",
    "TorchTransform",
    "as_density",
    "from_nflows",
    "from_zuko",
    "kl_divergence",
    "log_prob_function",
    "prior_transform",
    "save_netcdf",
    "to_datatree",
]

_NEED_EXTRAS = ("pyro", "sbi")  # imported on first use: their classes derive from those of the extra


def __getattr__(name: str) -> ModuleType:
    if name in _NEED_EXTRAS:
        return importlib.import_module(f"bijectory.interop.{name}")
    raise AttributeError(f"module 'bijectory.interop' has no attribute {name!r}")
