"""The settings of `lockgate serve`: from options and, if there is one, from a config file."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.gateway.config import Applied, Config

API_KEY_VARIABLE = "LOCKGATE_API_KEY"
# The key of a config file for each option that it can replace.
FILE_KEYS = {
    **{name: name for name in ("guard", "backbone", "device", "dtype", "threads")},
    "host": "listen.host",
    "port": "listen.port",
    "allowed_host": "listen.allowed_hosts",
    "insecure": "listen.insecure",
    "max_connections": "listen.max_connections",
    "drain_timeout": "listen.drain_timeout",
    "metrics_key_env": "listen.metrics_key_env",
    "log_format": "listen.log_format",
    **{
        name: f"limits.{name}"
        for name in (
            *("max_streams", "max_queue", "kv_tokens", "default_max_tokens", "block_input_status"),
            *(
                "step_timeout",
                "verdict_timeout",
                "queue_timeout",
                "promotion_timeout",
                "hold_tokens",
                "hold_ms",
            ),
        )
    },
}
# Options for what only the file says, if there is one.
FILES_OWN = {
    "mode": "mode",
    "upstream": "upstreams",
    "upstream_model": "upstreams",
    "upstream_key_env": "upstreams",
    "upstream_media": "upstreams",
    "api_key_file": "keys",
    "operations": "operations",
    "otlp_endpoint": "telemetry",
    "otlp_headers_env": "telemetry",
    "engine": "guard",
    "engine_arg": "guard",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `lockgate serve`, under their names. Its help says what they mean."""

    guard: str
    backbone: str
    device: str
    dtype: str
    engine: str
    engine_arg: list[str] | None
    upstream: str | None
    upstream_model: str | None
    upstream_key_env: str | None
    upstream_media: str | None
    host: str
    port: int
    mode: str
    max_streams: int
    max_queue: int
    kv_tokens: int | None
    default_max_tokens: int
    block_input_status: int
    decisions: str | None
    operations: str | None
    allowed_host: list[str] | None
    api_key_file: Path | None
    insecure: bool
    playground: bool | None
    risk_header: bool | None
    threads: int | None
    fetch: bool
    step_timeout: float
    verdict_timeout: float
    queue_timeout: float
    promotion_timeout: float
    drain_timeout: float
    max_connections: int
    metrics_key_env: str | None
    otlp_endpoint: str | None
    otlp_headers_env: str | None
    log_format: str
    hold_tokens: int
    hold_ms: float
    moderation_name: list[str] | None
    json: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config file and what it means."""

    path: Path
    applied: "Applied"


def load_file(path: Path, settings: Settings, given: Collection[str]) -> tuple[Settings, Loaded]:
    """Add the settings of a config file.

    Args:
        given: names of the options that the command line names.

    Raises:
        ConfigError: the file is not valid, or the command line says the same thing too.
    """
    from lockgate.gateway.config import apply_config, read_config
    from lockgate.guards import is_shipped

    config = read_config(path)
    found = {name: _value(config, key) for name, key in FILE_KEYS.items() if _is_set(config, key)}
    if "decisions" in given and "log" in config.model_fields_set:
        raise ConfigError(f"--decisions: with --config, `log` in {path} says this; leave the option out")
    for name in given:
        key = FILE_KEYS[name] if name in found else FILES_OWN.get(name)
        if key is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option}: with --config, `{key}` in {path} says this; leave the option out")
    if os.environ.get(API_KEY_VARIABLE):
        raise ConfigError(
            f"{API_KEY_VARIABLE} is set, but {path} says which keys there are: name the variable there "
            "(`keys: NAME: env:`), or unset it"
        )
    if "guard" in found and not is_shipped(found["guard"]):
        found["guard"] = str(path.parent / found["guard"])
    if found.get("backbone") not in (None, "embedded"):
        found["backbone"] = str(path.parent / found["backbone"])
    mode = "enforce" if config.mode == "canary" else config.mode
    return replace(settings, **found, mode=mode), Loaded(path, apply_config(config, path))


def _value(config: "Config", key: str) -> Any:  # noqa: ANN401 - any value of the file
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _is_set(config: "Config", key: str) -> bool:
    """Tell whether the file itself sets a key, so that it is no default."""
    section, _, name = key.rpartition(".")
    if not section:
        return name in config.model_fields_set
    return section in config.model_fields_set and name in _value(config, section).model_fields_set
