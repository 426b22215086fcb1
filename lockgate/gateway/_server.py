"""Run the application with uvicorn: bind the address, report when it is ready, shut down in bounded time."""

import asyncio
import errno
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from lockgate.errors import ConfigError
from lockgate.gateway._connections import ConnectionLimits, Doorkeeper

BACKLOG = 256
# After the drain's end, answers still have to say that they are not whole.
LAST_WORDS_SECONDS = 5
# Connections that are accepted in one go. Each needs a descriptor before it can be refused.
ACCEPTED_AT_ONCE = 4


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, has_key: bool, insecure: bool) -> None:
    """Refuse to serve other machines without an API key. Raises ConfigError."""
    if not (is_loopback(host) or has_key or insecure):
        raise ConfigError(
            f"--host {host} makes the server reachable from other machines, and no API key is set: "
            "give one with --api-key-file or LOCKGATE_API_KEY, or say --insecure"
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet. Port 0 takes a free port. Raises ConfigError."""
    name = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host}: not an address of this machine ({error})") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(port) from error
        raise ConfigError(f"can't listen on {host} port {port}: {error.strerror}") from error
    return bound


def _in_use(port: int) -> ConfigError:
    return ConfigError(f"port {port} is in use; choose another with --port, or 0 for a free one")


def url_of(bound: socket.socket) -> str:
    """Return the HTTP URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """A uvicorn server that calls `ready` when it accepts requests, and limits connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        limits: ConnectionLimits | None = None,
        drain_timeout: float = 30.0,
        end_open: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._drain_timeout = drain_timeout
        self._end_open = end_open
        self._ready = ready
        self._limits = limits or ConnectionLimits()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        door = Doorkeeper(self._limits)
        # A class is what uvicorn expects here, and it only calls it.
        self.config.http_protocol_class = door.protocol  # type: ignore[assignment]
        asyncio.get_running_loop().set_exception_handler(door.on_loop_fault)
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(BACKLOG)  # uvicorn has made it as short as the number that is accepted at once
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn can only cancel answers, which then break off. The engine ends them before that.
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._drain_timeout, self._end_open)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at SIGHUP on a new thread. It may need a lock that the interrupted thread holds."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(hangup, lambda *_: threading.Thread(target=act, daemon=True).start())
    try:
        yield
    finally:
        signal.signal(hangup, before)


def make_server(
    app: ASGIApp,
    *,
    ready: Callable[[], None],
    drain_timeout: float = 30.0,
    limits: ConnectionLimits | None = None,
    end_open: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """Make the server that `run_server` runs."""
    config = uvicorn.Config(
        app,
        http="h11",
        # Another loop may be installed with an extra. All was tried with this one.
        loop="asyncio",
        # Whoever is on this machine, or has a proxy pass a header on, must not choose its own address.
        proxy_headers=False,
        # The loggers of this process are set up already (`set_up_logs`).
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=round(drain_timeout) + LAST_WORDS_SECONDS,
    )
    return _Server(config, ready, limits, drain_timeout, end_open)


def run_server(
    app: ASGIApp,
    bound: socket.socket,
    *,
    ready: Callable[[], None],
    drain_timeout: float = 30.0,
    hangup: Callable[[], None] = lambda: None,
    limits: ConnectionLimits | None = None,
    end_open: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT. At SIGHUP call `hangup` and go on.

    At the end the server takes no new connections and gives open answers `drain_timeout` seconds. Then
    `end_open` must end them, and the application's lifespan closes the engine. When this returns, every
    exchange has its decision line.
    """
    server = make_server(app, ready=ready, drain_timeout=drain_timeout, limits=limits, end_open=end_open)
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        # Two sockets can be bound to one port while neither listens. The second to listen fails here.
        raise _in_use(bound.getsockname()[1]) from error
    with _on_hangup(hangup):
        server.run(sockets=[bound])
