"""Lockgate: a calibrated, streaming safeguard for language models.

guard = lockgate.load("embedded")
guard.score([{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}])
"""

from typing import TYPE_CHECKING

from lockgate._version import __version__
from lockgate.errors import LockgateError

if TYPE_CHECKING:
    from pathlib import Path

    from lockgate.backbones import Backbone
    from lockgate.guards import Guard

__all__ = ["LockgateError", "__version__", "load"]


def load(source: "str | Path" = "embedded", *, backbone: "Backbone | str | Path | None" = None) -> "Guard":
    """Load a guard and its backbone.

    Args:
        source: path of a guard bundle, or `embedded` for the guard in the package.
        backbone: a loaded backbone, or the path of one. The default is the embedded backbone.

    Returns:
        The guard, ready to score exchanges.

    Raises:
        GuardError: the bundle is incomplete or damaged.
        BackboneError: the backbone is not on this machine. `lockgate fetch` downloads the embedded one.
        BackboneMismatch: the guard was made for another backbone.
    """
    from lockgate.guards import Guard

    return Guard.load(source, backbone=backbone)
