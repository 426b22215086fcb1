"""The host names that a server answers to. Another site must not reach it through a name that it owns."""

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lockgate.errors import ConfigError
from lockgate.gateway._errors import ApiError, error_response

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Orchestrators call these by the address of the container.
_HEALTH = ("/health", "/healthz", "/readyz")
_PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip"})
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


def check_host_names(names: Iterable[str]) -> tuple[str, ...]:
    """Check names for `--allowed-host` and normalise them: lower case, IPv6 addresses in brackets.

    Raises:
        ConfigError: a name is not a host's name, for example because it has a scheme or a port.
    """
    found = []
    for name in names:
        plain = name.strip().lower().rstrip(".")
        try:
            address = ipaddress.ip_address(plain.strip("[]"))
        except ValueError:
            if not _NAME.fullmatch(plain):
                raise ConfigError(
                    f"--allowed-host {name}: expected a host's name such as chat.example.org, or "
                    "*.example.org, without scheme and port"
                ) from None
            found.append(plain)
        else:
            found.append(f"[{address}]" if address.version == 6 else str(address))
    return tuple(found)


def client_of(scope: Scope) -> str:
    """Return whom a request is counted for: the peer's address, or the network of an IPv6 address.

    A request with a tenant's key is counted for the tenant instead (see `Client`). A key of the config does
    not tell clients apart, because many may have it.
    """
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    # A host chooses the last 64 bits itself, as often as it likes.
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((address, 64), strict=False))


def was_forwarded(scope: Scope) -> bool:
    """Tell whether a header shows that a proxy passed the request on. A proxy need not send any."""
    names = Headers(scope=scope).keys()
    return any(name in _PROXY_HEADERS or name.startswith("x-forwarded") for name in names)


class HostCheck:
    """Middleware that refuses requests unless their Host header is an allowed name.

    Args:
        names: allowed names, from `check_host_names`. A leading `*.` matches one or more labels.
        health_for_all: whether health checks are answered under any name.
    """

    def __init__(self, app: ASGIApp, names: tuple[str, ...], *, health_for_all: bool = False) -> None:
        self._app = app
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._health_for_all = health_for_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exempt = self._health_for_all and scope.get("path") in _HEALTH
        if scope["type"] == "http" and not exempt and not self._knows(Headers(scope=scope).get("host", "")):
            error = ApiError(
                400,
                "This server doesn't answer to the name in the Host header; start it with "
                "--allowed-host NAME if it should.",
                code="invalid_host",
            )
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, header: str) -> bool:
        name = header.strip().lower()
        # The port comes after the brackets of an IPv6 address, or after the only colon.
        host = name[: name.rfind("]") + 1] if name.startswith("[") else name.partition(":")[0]
        host = host.rstrip(".")
        return host in self._names or (bool(self._endings) and host.endswith(self._endings))
