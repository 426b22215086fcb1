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


def load(
    source: "str | Path" = "embedded",
    *,
    backbone: "Backbone | str | Path | None" = None,
    device: str = "auto",
    dtype: str = "auto",
) -> "Guard":
    """Load a guard and its backbone.

    Args:
        source: path of a guard bundle, or `embedded` for the guard in the package.
        backbone: a loaded backbone, or the path of one. The default is the embedded backbone.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. `auto` is the first of CUDA, MPS and CPU.
        dtype: `auto`, `float32`, `bfloat16` or `float16`. `auto` is the precision of the guard's threshold.

    Returns:
        The guard, ready to score exchanges.

    Raises:
        ConfigError: the device or precision is not there, or the backbone is loaded in another one already.
        GuardError: the bundle is incomplete or damaged.
        BackboneError: the backbone is not on this machine. `lockgate fetch` downloads the embedded one.
        BackboneMismatch: the guard was made for another backbone.

    Warns:
        PrecisionWarning: the guard's threshold was set in another precision, or on another kind of device.
    """
    from lockgate.guards import Guard

    return Guard.load(source, backbone=backbone, device=device, dtype=dtype)
