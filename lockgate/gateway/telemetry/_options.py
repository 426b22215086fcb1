"""What is sent to a collector of OpenTelemetry, and where that is."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from lockgate._extras import need
from lockgate.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]+")
# What the paths of both kinds are put behind.
_SIGNALS = ("/v1/traces", "/v1/metrics")


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """What is sent over OTLP/HTTP. Nothing is read from the variables OTEL_*, but OTEL_RESOURCE_ATTRIBUTES.

    Attributes:
        endpoint: base address of a collector, such as `http://127.0.0.1:4318`.
        headers_env: environment variable with headers for it, as `NAME=VALUE,NAME=VALUE` with values in
            percent-encoding.
        service_name: the service that this server is part of.
        traces: whether traces are sent.
        metrics: whether metrics are sent.
        share: share of the traces that are sent, from 0 to 1. A request that names a trace follows that one.
        interval: seconds from one sending to the next.

    Raises:
        ConfigError: a setting is not valid, or `headers_env` is not set.
        MissingExtra: the extra `otel` is not installed.
    """

    endpoint: str
    headers_env: str | None = None
    service_name: str = "lockgate"
    traces: bool = True
    metrics: bool = True
    share: float = 1.0
    interval: float = 10.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", _checked(self.endpoint))
        if not self.service_name.strip():
            raise ConfigError("telemetry service_name: is empty; leave it out or give a name")
        if not 0 <= self.share <= 1 or not self.interval > 0:
            raise ConfigError("telemetry: expected a share from 0 to 1 and an interval above 0")
        if not (self.traces or self.metrics):
            raise ConfigError("telemetry: traces and metrics are both off; leave the section out")
        if self.headers_env is not None and not self.headers:
            object.__setattr__(self, "headers", _headers(self.headers_env))
        for module in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common.trace_encoder"):
            need(module, extra="otel", feature="telemetry")


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        found = parts.hostname and parts.port != 0
    except ValueError:  # a port beyond 65535, or half an address of IPv6
        raise ConfigError("telemetry endpoint: expected http(s)://HOST[:PORT]") from None
    if parts.scheme not in ("http", "https") or not found or parts.query or parts.fragment:
        raise ConfigError("telemetry endpoint: expected http(s)://HOST[:PORT], without query or fragment")
    if parts.username or parts.password:
        raise ConfigError("telemetry endpoint: holds a password; name a variable with headers in headers_env")
    endpoint = endpoint.rstrip("/")
    if endpoint.endswith(_SIGNALS):
        raise ConfigError(f"telemetry endpoint: expected what stands before {' and '.join(_SIGNALS)}")
    return endpoint


def _headers(variable: str) -> dict[str, str]:
    """Read headers from a variable. Errors name no value, which may be a secret."""
    found: dict[str, str] = {}
    for number, entry in enumerate(filter(str.strip, os.environ.get(variable, "").split(",")), start=1):
        name, equals, value = entry.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ConfigError(
                f"telemetry headers_env: entry {number} of {variable} is no header; expected NAME=VALUE,..."
            )
        found[name] = value
    if not found:
        raise ConfigError(f"telemetry headers_env: the environment variable {variable} is not set")
    return found
