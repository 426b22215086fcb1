"""The folder for files that Lockgate makes on this machine: converted weights and decision logs."""

import os
from pathlib import Path


def home() -> Path:
    """Return the folder `LOCKGATE_HOME`. The default is `lockgate` in the user's cache folder."""
    configured = os.environ.get("LOCKGATE_HOME")
    if configured:
        return Path(configured).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lockgate"
