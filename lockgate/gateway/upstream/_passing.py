"""Answers that pass without a guard: bytes of the upstream, as they come."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from lockgate.gateway import _wire as wire
from lockgate.gateway._answers import cancel_on_disconnect
from lockgate.gateway._bodies import BodyRoom, decode_body, read_body
from lockgate.gateway._errors import error_response
from lockgate.gateway._exchange import id_of
from lockgate.gateway._keyring import Keyring
from lockgate.gateway.upstream._client import UpstreamClient, UpstreamError
from lockgate.gateway.upstream._routes import DIALECTS, model_routes
from lockgate.gateway.upstream._upstreams import Upstreams

# Headers of the upstream's answer that the client gets.
_PASSED_BACK = ("content-type", "content-encoding", "content-length", "retry-after")
_EVENTS = "text/event-stream"


class PassedAnswer(Response):
    """A response that passes an upstream's answer on, byte for byte. If the client leaves, the answer ends.

    Args:
        path: below the upstream's address.
        headers: headers for the upstream.
    """

    def __init__(self, client: UpstreamClient, path: str, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__()
        self._client = client
        self._path = path
        self._request_headers = headers
        self._request_body = body
        self._kind: str | None = None  # content type, once the answer's head has left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
            try:
                await self.relay(send)
            except UpstreamError as error:
                await self._break_off(error, scope, receive, send)
            group.cancel_scope.cancel()

    async def relay(self, send: Send) -> None:
        """Ask the upstream and pass its answer on. Raises UpstreamError."""
        async with self._client.send("POST", self._path, self._request_headers, self._request_body) as found:
            await self._begin(found, send)
            async for part in found.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, found: httpx2.Response, send: Send) -> None:
        kept = {name: found.headers[name] for name in _PASSED_BACK if name in found.headers}
        headers = [(name.encode(), value.encode()) for name, value in kept.items()]
        await send({"type": "http.response.start", "status": found.status_code, "headers": headers})
        self._kind = kept.get("content-type", "") if "content-encoding" not in kept else ""

    async def _break_off(self, error: UpstreamError, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what went wrong, as a status or as an event. Other answers that have begun are cut short."""
        if self._kind is None:
            await error_response(error)(scope, receive, send)
        elif self._kind.startswith(_EVENTS):
            body = b"\n\n" + wire.sse(error.body()) + wire.DONE
            await send({"type": "http.response.body", "body": body, "more_body": False})


def passing_routes(upstreams: Upstreams, keyring: Keyring) -> list[BaseRoute]:
    """Return the routes of mode `off`: the same as under a guard, but nothing is read.

    Args:
        keyring: the keys of this server. If it has any, a client's key is not the upstream's.
    """
    room = BodyRoom()
    paths = [dialect.path for dialect in DIALECTS]
    routes: list[BaseRoute] = [
        Route(f"/v1{path}", _passed(upstreams, path, room, keyring), methods=["POST"]) for path in paths
    ]
    return [*routes, *model_routes(upstreams, keyring)]


def _passed(upstreams: Upstreams, path: str, room: BodyRoom, keyring: Keyring) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        with room.share() as share:
            body = await read_body(request, share)
        payload = decode_body(body) if upstreams.reads_model else {}
        client = upstreams.find(payload)
        if client.options.model is not None:
            body = client.encode(payload or decode_body(body))
        headers = _headers(client, request, own_key=bool(keyring))
        return PassedAnswer(client, path, headers, body)

    return endpoint


def _headers(client: UpstreamClient, request: Request, *, own_key: bool) -> dict[str, str]:
    """Return the upstream's headers for an answer that is not read here, in the client's own compression."""
    headers = client.headers_for(request.headers, own_key=own_key, name=id_of(request))
    headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
    return headers
