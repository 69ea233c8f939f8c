"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions.

The public surface, every name re-exported by hand: one import line (what type checkers read) and one entry of
``__all__``. At run time a name is fetched from its room on first use, so that ``import bijectory`` costs nothing and a
room that needs pandas or scikit-learn loads them only when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bijectory.apps import FlowDensity, FlowOutlier, TableFit, TableFlow, fit_table
    from bijectory.bijections import (
        Affine,
        Arcsinh,
        Bijection,
        Exp,
        LeakyReLU,
        Log,
        Logit,
        RationalQuadratic,
        Shift,
        Sigmoid,
        SinhArcsinh,
        Softplus,
        Tanh,
        YeoJohnson,
    )
    from bijectory.densities import (
        Audit,
        Banana,
        BoxUniform,
        Checkerboard,
        Density,
        DiagonalNormal,
        Encode,
        Flow,
        FlowDistribution,
        Funnel,
        GaussianGrid,
        GaussianMixture,
        GaussianRing,
        RezendeMohamed,
        Rings,
        StandardNormal,
        StudentT,
        Target,
        TwoMoons,
    )
    from bijectory.io import load, load_metadata, save
    from bijectory.objectives import Batch, ReverseKL, nll
    from bijectory.recipes import bnaf, iaf, maf, nice, nsf, nsf_ar, planar, radial, real_nvp, sylvester
    from bijectory.spec import register
    from bijectory.tables import DataWarning, Schema, read_table
    from bijectory.training import Anneal, Callback, Data, FitConfig, FitResult, fit
    from bijectory.transforms import (
        LU,
        ActNorm,
        Autoregressive,
        BlockAutoregressive,
        Chain,
        Coupling,
        Elementwise,
        Inverse,
        Partition,
        Permutation,
        Planar,
        Radial,
        Reshape,
        Standardize,
        Sylvester,
        Transform,
        random_permutation,
        reversal,
    )

__version__ = "0.1.0"

__all__ = [
    "LU",
    "ActNorm",
    "Affine",
    "Anneal",
    "Arcsinh",
    "Audit",
    "Autoregressive",
    "Banana",
    "Batch",
    "Bijection",
    "BlockAutoregressive",
    "BoxUniform",
    "Callback",
    "Chain",
    "Checkerboard",
    "Coupling",
    "Data",
    "DataWarning",
    "Density",
    "DiagonalNormal",
    "Elementwise",
    "Encode",
    "Exp",
    "FitConfig",
    "FitResult",
    "Flow",
    "FlowDensity",
    "FlowDistribution",
    "FlowOutlier",
    "Funnel",
    "GaussianGrid",
    "GaussianMixture",
    "GaussianRing",
    "Inverse",
    "LeakyReLU",
    "Log",
    "Logit",
    "Partition",
    "Permutation",
    "Planar",
    "Radial",
    "RationalQuadratic",
    "Reshape",
    "ReverseKL",
    "RezendeMohamed",
    "Rings",
    "Schema",
    "Shift",
    "Sigmoid",
    "SinhArcsinh",
    "Softplus",
    "StandardNormal",
    "Standardize",
    "StudentT",
    "Sylvester",
    "TableFit",
    "TableFlow",
    "Tanh",
    "Target",
    "Transform",
    "TwoMoons",
    "YeoJohnson",
    "bnaf",
    "fit",
    "fit_table",
    "iaf",
    "load",
    "load_metadata",
    "maf",
    "nice",
    "nll",
    "nsf",
    "nsf_ar",
    "planar",
    "radial",
    "random_permutation",
    "read_table",
    "real_nvp",
    "register",
    "reversal",
    "save",
    "sylvester",
]

_ROOMS = (  # searched in this order: what needs torch alone comes first
    "errors",
    "ops",
    "bijections",
    "nets",
    "transforms",
    "densities",
    "recipes",
    "spec",
    "spec_torch",
    "objectives",
    "io",
    "storage",
    "training",
    "testing",
    "tables",
    "apps",
    "interop",
    "report",
    "serve",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"bijectory.{name}")
    if name in __all__:
        for room in _ROOMS:
            module = _room(room)
            if name in getattr(module, "__all__", ()):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'bijectory' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


def _room(name: str) -> Any:
    """Import a room; None if it is not built (any other failure to import is reported as it is)."""
    try:
        return importlib.import_module(f"bijectory.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"bijectory.{name}":
            raise
        return None
