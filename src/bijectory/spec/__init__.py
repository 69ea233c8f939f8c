"""JSON specification of any composition of library parts.

A part is a class and its constructor arguments, and every part keeps each argument ``n`` as the attribute ``n``; so
``{"$class": name, "args": {n: part.n}}`` rebuilds it, all the way down, without pickle and without a recipe's name. The
specification holds the structure *as it is now* (a replaced sub-network is stored, not the original); weights are not part
of it. Values that JSON lacks carry a tag: ``{"$tuple": […]}``, ``{"$float": "inf"}``, ``{"$dtype": "float32"}``,
``{"$size": […]}``, ``{"$tensor": {…}}``, ``{"$dict": [[key, value], …]}`` and, for an object used twice, ``{"$ref": id}``.

Only classes on the allow-list are ever built: the public concrete classes of the rooms, a few layers of ``torch.nn``
(``layers``), and what the user registered with ``register``. A name is looked up in that table, never imported;
beside it stand a few fixed names of applications, whose room is imported when a file asks for one of them.
"""

from bijectory.spec.decode import from_spec
from bijectory.spec.encode import to_spec
from bijectory.spec.registry import register

__all__ = [
    "from_spec",
    "register",
    "to_spec",
]
