"""One family of errors: every message says what was passed, what was expected, and what to do."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "ConvergenceError",
    "DataError",
    "DomainError",
    "DtypeError",
    "FlowError",
    "LowESSError",
    "MissingExtraError",
    "NonFiniteError",
    "ShapeError",
    "check",
]


class FlowError(ValueError):
    """Base class of every error that Bijectory raises on purpose."""


class ShapeError(FlowError):
    """A tensor has the wrong shape, or the wrong number of features."""


class DtypeError(FlowError, TypeError):
    """A tensor has the wrong dtype or lives on the wrong device, or the object is not a tensor."""


class ContextError(FlowError):
    """The context is missing, unexpected, or of the wrong width or batch shape."""


class NonFiniteError(FlowError):
    """Data, parameters or a loss contain NaN or infinity."""


class DomainError(FlowError):
    """A value lies outside the domain on which a map or a column is defined."""


class ConfigError(FlowError):
    """A hyper-parameter is unknown, of the wrong type, or out of range."""


class DataError(FlowError):
    """A table or file cannot be used as data: missing, empty, of the wrong kind."""


class CheckpointError(FlowError):
    """A saved model is missing, truncated, altered, foreign, or does not belong to the model."""


class ConvergenceError(FlowError):
    """An iterative inverse, solver or optimisation did not converge within its cap."""


class LowESSError(ConvergenceError):
    """Weighted draws hold too few effective ones for an answer."""


class MissingExtraError(FlowError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


def check(condition: bool, error: type[FlowError], message: str) -> None:  # noqa: FBT001
    """Raise ``error(message)`` unless ``condition`` holds (an ``assert`` that survives ``python -O``)."""
    if not condition:
        raise error(message)


def check_type(value: object, kind: type, name: str) -> None:
    """Raise ``ConfigError`` unless ``value`` is an instance of ``kind``; a class passed for its instance is told apart."""
    if not isinstance(value, kind):
        got = f"the class {value.__name__}; call it" if isinstance(value, type) else f"{type(value).__name__} {value!r}"
        raise ConfigError(f"{name} must be a {kind.__name__}, got {got}.")
