"""Where Lockgate keeps what it makes on a machine: converted weights, decision logs."""

import os
from pathlib import Path


def home() -> Path:
    """The directory `LOCKGATE_HOME`, by default `lockgate` in the user's cache directory."""
    configured = os.environ.get("LOCKGATE_HOME")
    if configured:
        return Path(configured).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lockgate"
