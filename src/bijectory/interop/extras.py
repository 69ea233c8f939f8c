"""Optional dependencies, imported where they are used, with one clear error."""

import importlib
from typing import Any

from bijectory.errors import MissingExtraError


def need(module: str, extra: str) -> Any:
    """Import an optional dependency.

    Args:
        module: Name of the module.
        extra: The extra of this package that installs it.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> need("math", "none").floor(2.5)
        2
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # it is there, and something else is missing
            raise
        raise MissingExtraError(f"{error.name} is not installed; run: pip install bijectory[{extra}]") from None
