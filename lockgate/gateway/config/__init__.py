"""The server's config file: its schema, its reading, and what it means for a running server."""

from lockgate.gateway.config._apply import (
    Applied,
    Follower,
    apply_config,
    operations_of,
    reload_config,
)
from lockgate.gateway.config._file import read_config, show_config
from lockgate.gateway.config._schema import BuildConfig, Config, config_schema

__all__ = [
    "Applied",
    "BuildConfig",
    "Config",
    "Follower",
    "apply_config",
    "config_schema",
    "operations_of",
    "read_config",
    "reload_config",
    "show_config",
]
