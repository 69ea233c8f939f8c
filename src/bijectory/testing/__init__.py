"""The laws of the contract, for your own bijections, transforms and densities.

Every law is a small function of a ``Subject`` that raises ``LawViolation`` with the law, the measured error, its bound and
the worst element. ``check_bijection``, ``check_transform`` and ``check_density`` run them all, in float32 and float64, on
trained-like parameters.
"""

from bijectory.testing.bijections import BIJECTION_LAWS, COSTLY_BIJECTION_LAWS
from bijectory.testing.check import check_bijection, check_density, check_transform
from bijectory.testing.densities import COSTLY_DENSITY_LAWS, DENSITY_LAWS
from bijectory.testing.subject import Chart, Subject, randomize
from bijectory.testing.transforms import COSTLY_TRANSFORM_LAWS, TRANSFORM_LAWS
from bijectory.testing.violation import TOLERANCES, LawViolation, Tolerance

__all__ = [
    "BIJECTION_LAWS",
    "COSTLY_BIJECTION_LAWS",
    "COSTLY_DENSITY_LAWS",
    "COSTLY_TRANSFORM_LAWS",
    "DENSITY_LAWS",
    "TOLERANCES",
    "TRANSFORM_LAWS",
    "Chart",
    "LawViolation",
    "Subject",
    "Tolerance",
    "check_bijection",
    "check_density",
    "check_transform",
    "randomize",
]
