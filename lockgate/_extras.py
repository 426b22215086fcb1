"""Import optional dependencies where they are used. The error names the extra to install."""

from importlib import import_module
from typing import Any

from lockgate.errors import MissingExtra


def need(module: str, *, extra: str, feature: str) -> Any:  # noqa: ANN401 - a module
    """Import and return an optional module.

    Args:
        module: dotted name of the module.
        extra: extra of the `lockgate` package that installs it.
        feature: what needs it, for the error message.

    Raises:
        MissingExtra: the module, or a package that contains it, is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # If the package is installed but one of its own imports fails, that is another fault.
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise MissingExtra(feature, extra) from None
