"""Connections: how many there may be, how long they may take, and answers to what is no HTTP.

uvicorn's HTTP/1.1 protocol does the work. It bounds neither the number of connections nor the time in which a
request must arrive, and it answers malformed requests with text.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from lockgate.errors import ConfigError
from lockgate.gateway._errors import ApiError, error_response
from lockgate.gateway._exchange import request_id
from lockgate.gateway._logs import fields

logger = logging.getLogger("lockgate.gateway")
access = logging.getLogger("lockgate.access")

MAX_CONNECTIONS = 1024
# Descriptors that are kept free for the log and for connections that are only accepted to be refused.
SPARE_DESCRIPTORS = 24
QUIET_SECONDS = 60.0
# Chunks of a body that may be small. Beyond them, a chunk must bring so many bytes on average.
SMALL_CHUNKS = 1024
CHUNK_BYTES = 256
_SAFETY = (b"x-content-type-options: nosniff", b"cache-control: no-store")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: connections at a time. It is lowered to what the process may open.
        head_seconds: for the head of a request, from its first byte or the start of the connection.
        rest_seconds: for the rest of a body that was answered before it had arrived.
        write_seconds: for a client that reads nothing of its answer.
    """

    connections: int = MAX_CONNECTIONS
    head_seconds: float = 10.0
    rest_seconds: float = 5.0
    write_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.connections < 1 or min(self.head_seconds, self.rest_seconds, self.write_seconds) <= 0:
            raise ConfigError("expected at least one connection, and time limits above 0")


def allowed_connections(wanted: int) -> int:
    """Return how many connections there may be beside the descriptors that are open now. At least one."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):  # a system that has no such limit, or does not show it
        return wanted
    if most == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, most - used - SPARE_DESCRIPTORS))


@dataclass(slots=True)
class SeldomLog:
    """A warning that is logged at most once in `seconds`, with the number of times it was left out."""

    seconds: float = QUIET_SECONDS
    _last: float = field(default=float("-inf"))
    _left_out: int = 0

    def __call__(self, words: str) -> None:
        now = time.monotonic()
        if now - self._last < self.seconds:
            self._left_out += 1
            return
        logger.warning("%s (%d more since the last line)", words, self._left_out)
        self._last, self._left_out = now, 0


class Doorkeeper:
    """The connections of one server. A newcomer takes the place of the one that has idled longest."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.most = allowed_connections(limits.connections)
        self.open: set[GuardedProtocol] = set()
        # Connections without a request, in the order in which they began to idle.
        self.idle: dict[GuardedProtocol, None] = {}
        self._full = SeldomLog()
        self._short = SeldomLog()
        self._short_since: float | None = None

    def admit(self, protocol: "GuardedProtocol") -> bool:
        """Take a connection, or return False if all others are at work."""
        self._recover()
        if len(self.open) >= self.most:
            self._full(f"all {self.most} connections are in use")
            if not self._make_room():
                return False
        self.open.add(protocol)
        return True

    def _recover(self) -> None:
        """Raise a lowered cap again, once descriptors were enough for a while."""
        if self._short_since is not None and time.monotonic() - self._short_since > QUIET_SECONDS:
            self._short_since = None
            wanted = self.limits.connections
            self.most = max(self.most, min(wanted, len(self.open) + allowed_connections(wanted)))

    def _make_room(self) -> bool:
        """End the connection that has idled longest. Return False if there is none."""
        if not self.idle:
            return False
        longest = next(iter(self.idle))
        self.forget(longest)
        longest.drop()
        return True

    def forget(self, protocol: "GuardedProtocol") -> None:
        self.open.discard(protocol)
        self.idle.pop(protocol, None)

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "GuardedProtocol":
        """Make the protocol of a new connection. uvicorn calls this as it would call its own class."""
        return GuardedProtocol(self, config, server_state, app_state, _loop)

    def on_loop_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle a fault outside any request. A lack of descriptors is one line, not a traceback each."""
        error = context.get("exception")
        if isinstance(error, OSError) and "accept" in context.get("message", ""):
            self._short(f"no connection can be accepted: {error.strerror}")
            self._short_since = time.monotonic()
            # The process has fewer descriptors than at the start. Leave some free for a while.
            self.most = max(1, min(self.most, len(self.open) - SPARE_DESCRIPTORS // 2))
            while len(self.open) > self.most and self._make_room():
                pass
        else:
            loop.default_exception_handler(context)


class ThriftyConnection(h11.Connection):
    """h11's parser, which refuses a body in very many tiny chunks: each costs as much as a large one.

    Attributes:
        wasteful: whether it has refused one.
    """

    def __init__(self, longest: int | None) -> None:
        super().__init__(h11.SERVER, *(() if longest is None else (longest,)))
        self.wasteful = False
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11. Raises RemoteProtocolError: the chunks are too small."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > SMALL_CHUNKS + self._bytes // CHUNK_BYTES:
                self.wasteful = True
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with limits of time and number, and with errors in OpenAI's shape."""

    def __init__(self, door: Doorkeeper, *arguments: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments)
        self.conn = self._parser = ThriftyConnection(self.config.h11_max_incomplete_event_size)
        self._door = door
        self._stage = ""
        self._timer: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._door.admit(self):
            busy = ApiError(
                503,
                "The server has no free connection now. Try again in 1 s.",
                kind="server_error",
                code="unavailable",
                headers={"Retry-After": "1"},
            )
            transport.write(_whole_answer(busy))
            transport.close()
            self.transport = transport
            return
        super().connection_made(transport)
        self._enter("head")
        self._door.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter("")
        if self._stuck is not None:
            self._stuck.cancel()
        if self in self.connections or self.flow is not None:
            super().connection_lost(exc)
        self._door.forget(self)

    def data_received(self, data: bytes) -> None:
        if self.flow is None:  # it was refused
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(self._door.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def drop(self) -> None:
        """End a connection that has no request, at once."""
        if not self.transport.is_closing():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP. uvicorn calls this; its text is not used."""
        what = "The request is not valid HTTP/1.1."
        if self._parser.wasteful:
            what = f"The body comes in too many chunks of less than {CHUNK_BYTES} bytes."
        self._refuse(ApiError(400, what, code="invalid_http"))

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing. Any client can ask for an upgrade, as often as it likes."""

    def _look(self) -> None:
        """Note what the connection waits for now."""
        if self.transport.is_closing():
            return
        theirs, answered = self.conn.their_state, self.cycle is None or self.cycle.response_complete
        if theirs is h11.IDLE and answered:
            # Only a first byte starts the time, so that a head can't be stretched by one byte at a time.
            begun = self._stage == "head" or bool(self.conn.trailing_data[0])
            self._enter("head" if begun else "idle")
        elif theirs is h11.SEND_BODY and answered:
            self._enter("rest")
        else:
            self._enter("busy")

    def _enter(self, stage: str) -> None:
        if stage == self._stage:
            return
        self._stage = stage
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if stage in ("busy", "rest", ""):
            self._door.idle.pop(self, None)
        else:
            self._door.idle.setdefault(self)
        limits = self._door.limits
        acts: dict[str, tuple[float, Callable[[], None]]] = {
            "head": (limits.head_seconds, self._too_slow),
            "rest": (limits.rest_seconds, self.drop),
        }
        if stage in acts:
            self._timer = self.loop.call_later(*acts[stage])

    def _too_slow(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.drop()  # nobody asked for anything
            return
        seconds = self._door.limits.head_seconds
        self._refuse(
            ApiError(408, f"The request did not arrive within {seconds:g} s.", code="request_timeout")
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close. In the middle of an answer only close."""
        if not self.transport.is_closing():
            cycle = self.cycle
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and (
                cycle is None or cycle.response_complete or not cycle.response_started
            ):
                self.transport.write(_whole_answer(error))
                access.warning("- - %d", error.status, extra=fields(status=error.status))
            self.transport.close()


def _whole_answer(error: ApiError) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    response = error_response(error)
    body = bytes(response.body)
    lines = [f"HTTP/1.1 {error.status} ".encode() + STATUS_PHRASES[error.status]]
    lines += [name + b": " + value for name, value in response.raw_headers]
    lines += [b"x-request-id: " + request_id(None).encode(), *_SAFETY]
    lines += [b"connection: close", b"", b""]
    return b"\r\n".join(lines) + body
