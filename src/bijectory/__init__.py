"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions.

The public surface, every name re-exported by hand: one import line (what type checkers read) and one entry of
``__all__``. At run time a name is fetched from its room on first use, so that ``import bijectory`` costs nothing and a
room that needs pandas or scikit-learn loads them only when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bijectory.apps import (
        FlowDensity,
        FlowOutlier,
        ImageFit,
        ImageFlow,
        TableFit,
        TableFlow,
        fit_images,
        fit_table,
        read_images,
    )
    from bijectory.bijections import (
        Affine,
        Arcsinh,
        Bijection,
        CubicSpline,
        Exp,
        Gaussianization,
        Inverted,
        LeakyReLU,
        LinearRational,
        LinearSpline,
        Log,
        Logit,
        MixtureCdf,
        Power,
        PowerTails,
        QuadraticSpline,
        RationalQuadratic,
        Shift,
        Sigmoid,
        Sigmoidal,
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
        Dequantized,
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
        bits_per_dim,
        denoise,
        guided_sample,
    )
    from bijectory.io import load, load_metadata, save
    from bijectory.objectives import Batch, ContextDropout, NoisyData, dequantized_nll, nll
    from bijectory.recipes import (
        flowpp_image,
        glow,
        iaf,
        jet,
        maf,
        nice,
        nsf,
        nsf_ar,
        pixel_noise,
        real_nvp,
        real_nvp_image,
        tarflow,
        tarflow_image,
        ttf,
    )
    from bijectory.spec import register
    from bijectory.tables import DataWarning, Schema, read_table
    from bijectory.training import Callback, Data, FitConfig, FitResult, fit
    from bijectory.transforms import (
        LU,
        QR,
        ActNorm,
        Autoregressive,
        Causal,
        Chain,
        Conv1x1,
        Coupling,
        Elementwise,
        Haar,
        Householder,
        ImageCoupling,
        Inverse,
        MatrixExp,
        Multiscale,
        Partition,
        Patchify,
        Permutation,
        Planar,
        Radial,
        Reshape,
        Reversible,
        Rotation,
        Squeeze,
        Standardize,
        Transform,
        random_permutation,
        reversal,
    )

__version__ = "0.1.0"

__all__ = [
    "LU",
    "QR",
    "ActNorm",
    "Affine",
    "Arcsinh",
    "Audit",
    "Autoregressive",
    "Banana",
    "Batch",
    "Bijection",
    "BoxUniform",
    "Callback",
    "Causal",
    "Chain",
    "Checkerboard",
    "ContextDropout",
    "Conv1x1",
    "Coupling",
    "CubicSpline",
    "Data",
    "DataWarning",
    "Density",
    "Dequantized",
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
    "Gaussianization",
    "Haar",
    "Householder",
    "ImageCoupling",
    "ImageFit",
    "ImageFlow",
    "Inverse",
    "Inverted",
    "LeakyReLU",
    "LinearRational",
    "LinearSpline",
    "Log",
    "Logit",
    "MatrixExp",
    "MixtureCdf",
    "Multiscale",
    "NoisyData",
    "Partition",
    "Patchify",
    "Permutation",
    "Planar",
    "Power",
    "PowerTails",
    "QuadraticSpline",
    "Radial",
    "RationalQuadratic",
    "Reshape",
    "Reversible",
    "RezendeMohamed",
    "Rings",
    "Rotation",
    "Schema",
    "Shift",
    "Sigmoid",
    "Sigmoidal",
    "SinhArcsinh",
    "Softplus",
    "Squeeze",
    "StandardNormal",
    "Standardize",
    "StudentT",
    "TableFit",
    "TableFlow",
    "Tanh",
    "Target",
    "Transform",
    "TwoMoons",
    "YeoJohnson",
    "bits_per_dim",
    "denoise",
    "dequantized_nll",
    "fit",
    "fit_images",
    "fit_table",
    "flowpp_image",
    "glow",
    "guided_sample",
    "iaf",
    "jet",
    "load",
    "load_metadata",
    "maf",
    "nice",
    "nll",
    "nsf",
    "nsf_ar",
    "pixel_noise",
    "random_permutation",
    "read_images",
    "read_table",
    "real_nvp",
    "real_nvp_image",
    "register",
    "reversal",
    "save",
    "tarflow",
    "tarflow_image",
    "ttf",
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
