"""Optional dependencies: imported where they are used, with an error that names the extra."""

from importlib import import_module
from typing import Any

from lockgate.errors import MissingExtra


def need(module: str, *, extra: str, feature: str) -> Any:  # noqa: ANN401 - a module
    """Import `module`. Raises MissingExtra if it, or a package around it, is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there and fails inside is another fault.
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise MissingExtra(feature, extra) from None
