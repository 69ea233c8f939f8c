"""The allow-list: which classes a specification may name."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import TypeVar, overload

from bijectory.errors import ConfigError, check

ROOMS = ("bijections", "nets", "transforms", "densities")
# Models of applications: registered by the module that defines them, which is imported when a file names one.
APPLICATIONS = dict.fromkeys(
    ("VAE", "BernoulliPixels", "CategoricalLevels", "GaussianValues", "LogisticLevels"), "bijectory.apps.vae"
)

T = TypeVar("T", bound=type)
_REGISTERED: dict[str, type] = {}


@functools.cache
def library() -> dict[str, type]:
    """Public concrete classes of the rooms whose objects a model is made of."""
    classes: dict[str, type] = {}
    for room in ROOMS:
        module = importlib.import_module(f"bijectory.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and not inspect.isabstract(value):
                check(classes.setdefault(name, value) is value, ConfigError, f"two public classes are called {name}.")
    return classes


@overload
def register(cls: T) -> T: ...
@overload
def register(cls: None = None, *, name: str | None = None) -> Callable[[T], T]: ...
def register(cls: T | None = None, *, name: str | None = None) -> T | Callable[[T], T]:
    """Allow a class of your own in saved models (a decorator).

    The class must keep each constructor argument ``n`` as the attribute ``n``. Register it again, by importing the module
    that defines it, before ``load``.

    Args:
        cls: The class.
        name: Its name in the file; the class's own name by default.

    Raises:
        ConfigError: If the name is taken by another class.

    Example:
        >>> from torch import nn
        >>> from bijectory.spec import to_spec
        >>> @register
        ... class Doubler(nn.Module):
        ...     def __init__(self, times: int = 2) -> None:
        ...         super().__init__()
        ...         self.times = times
        >>> to_spec(Doubler(3))
        {'$class': 'Doubler', 'args': {'times': 3}}
    """
    if cls is None:
        return functools.partial(_register, name=name)
    return _register(cls, name=name)


def _register(cls: T, *, name: str | None) -> T:
    check(inspect.isclass(cls), ConfigError, f"register takes a class, got {cls!r}.")
    name = name or cls.__name__
    taken = library().get(name) or _REGISTERED.get(name)
    same = taken is not None and (taken.__module__, taken.__qualname__) == (cls.__module__, cls.__qualname__)
    if name in library() or (taken is not None and not same):  # the same class again: a module that was reloaded
        raise ConfigError(f"the name {name!r} is taken by {taken!r}; pass register(name=...) with a name of your own.")
    _REGISTERED[name] = cls
    return cls


def find_class(name: str) -> type | None:
    """Class of a name on the allow-list."""
    if name in APPLICATIONS and name not in _REGISTERED:
        importlib.import_module(APPLICATIONS[name])
    return library().get(name) or _REGISTERED.get(name)


def is_library(cls: type) -> bool:
    """Whether the library itself defines and publishes the class."""
    return library().get(cls.__name__) is cls


def class_name(cls: type) -> str | None:
    """Name of a class on the allow-list, None if it is not there."""
    if is_library(cls):
        return cls.__name__
    return next((name for name, known in _REGISTERED.items() if known is cls), None)
