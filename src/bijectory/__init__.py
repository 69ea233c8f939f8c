"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions.

The public surface, every name re-exported by hand, is the stub beside this file. At run time a name is fetched from its room
on first use, so that ``import bijectory`` costs nothing and a room that needs pandas or scikit-learn loads them only when it
is asked for.
"""

import lazy_loader

_ROOMS = (  # each imports those before it
    "errors", "ops", "bijections", "nets", "transforms", "densities", "recipes", "spec", "objectives", "io", "training",
    "testing", "tables", "apps", "interop", "report",
)  # fmt: skip

__version__ = "0.1.0"
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name not in _ROOMS]
