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
    """Load a guard and the backbone it was made for.

    Args:
        source: path of a guard bundle, or `embedded` for the one that comes with the package.
        backbone: a loaded backbone or the path of one; by default the embedded backbone.

    Raises:
        GuardError: the bundle is incomplete or damaged.
        BackboneError: the backbone is not on this machine (`lockgate fetch` gets the embedded one).
        BackboneMismatch: the backbone is not the one that the guard was made for.
    """
    from lockgate.guards import Guard

    return Guard.load(source, backbone=backbone)
