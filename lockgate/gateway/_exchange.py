"""What every answer carries: an id, two safety headers, and a log line if it is an error."""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockgate.gateway._errors import ApiError, error_response
from lockgate.gateway._logs import fields
from lockgate.gateway._metrics import Metrics
from lockgate.gateway._options import RESTART_SECONDS
from lockgate.gateway._tracing import CURRENT, Tracer

logger = logging.getLogger("lockgate.access")

_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID = "lockgate.request_id"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_id(given: str | None) -> str:
    """Return the client's id of a request if it is a plain token, or else a new one."""
    return given if given and _TOKEN.fullmatch(given) else f"req_{secrets.token_hex(12)}"


class ExchangeFrame:
    """Middleware around all others. It counts requests, and logs errors without their path or query.

    Args:
        tracer: begins a trace for each request. None begins none.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, name = time.monotonic(), request_id(Headers(scope=scope).get("x-request-id"))
        scope[_ID] = name
        trace = None if self._tracer is None else self._tracer.begin(scope, name)
        CURRENT.set(trace)
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_framed)
        except asyncio.CancelledError:
            # uvicorn cancels what is left when it stops. Without an answer it would send a 500 as text.
            if status:
                raise
            await error_response(_stopping())(scope, receive, send_framed)
        finally:
            # The template of a route is the server's own text, its path is the client's.
            route = getattr(scope.get("route"), "path", "-")
            if status:
                self._metrics.answered(route, status)
            if status >= 400:
                _log(scope, route, status, begun, name)
            if trace is not None:
                trace.end(route, status)
            CURRENT.set(None)


def id_of(request: Request) -> str:
    """Return the id of a request, which its answer carries and an upstream gets."""
    return str(request.scope[_ID])


def _log(scope: Scope, route: str, status: int, begun: float, name: str) -> None:
    method = scope["method"] if scope["method"] in METHODS else "-"
    took = 1000 * (time.monotonic() - begun)
    told = fields(method=method, route=route, status=status, duration_ms=round(took, 1), request_id=name)
    logger.warning("%s %s %d %.0f ms %s", method, route, status, took, name, extra=told)


def _stopping() -> ApiError:
    return ApiError(
        503,
        "The server is stopping.",
        kind="server_error",
        code="unavailable",
        headers={"Retry-After": str(RESTART_SECONDS)},
    )
