"""The routes of upstream mode: each API of the upstream under the guard, and its list of models."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from lockgate.gateway._bodies import decode_body, read_body
from lockgate.gateway._errors import ApiError, json_response
from lockgate.gateway._events import Event
from lockgate.gateway._gateway import Gateway, deliver_to
from lockgate.gateway._hosts import client_of
from lockgate.gateway.upstream._answer import Call, RelayedAnswer
from lockgate.gateway.upstream._chat import ChatDialect
from lockgate.gateway.upstream._client import UpstreamClient
from lockgate.gateway.upstream._dialect import Asked, Dialect

DIALECTS: tuple[Dialect, ...] = (ChatDialect(),)


def upstream_routes(client: UpstreamClient) -> list[BaseRoute]:
    """Return the routes that guard the answers of an upstream."""
    routes: list[BaseRoute] = [
        Route(f"/v1{dialect.path}", _guarded(client, dialect), methods=["POST"]) for dialect in DIALECTS
    ]
    return [*routes, Route("/v1/models", _models(client), methods=["GET"])]


def _guarded(client: UpstreamClient, dialect: Dialect) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        try:
            return await _answer(gateway, client, dialect, request)
        except ApiError as error:
            return json_response(dialect.error(error), error.status, error.headers)

    return endpoint


async def _answer(gateway: Gateway, client: UpstreamClient, dialect: Dialect, request: Request) -> Response:
    with gateway.bodies.share() as share:
        body = await read_body(request, share)
        asked = await gateway.decode(lambda: _read_request(gateway, client, dialect, body))
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    deliver = deliver_to(queue)
    job = await gateway.prepare_given(
        asked.messages,
        deliver,
        client_of(request.scope),
        n=asked.choices,
        max_tokens=asked.max_tokens,
        begin=lambda: deliver(None),
    )
    headers = client.headers_for(request.headers, own_key=gateway.options.api_key is not None)
    return RelayedAnswer(Call(gateway, client, dialect, asked, headers), job, queue)


def _read_request(gateway: Gateway, client: UpstreamClient, dialect: Dialect, body: bytes) -> Asked:
    most = gateway.options.engine.max_streams
    return dialect.read_request(decode_body(body), client.options.media, most)


def _models(client: UpstreamClient) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        headers = client.headers_for(request.headers, own_key=gateway.options.api_key is not None)
        async with client.send("GET", "/models", headers) as response:
            content = await response.aread()
            return Response(content, response.status_code, media_type="application/json")

    return endpoint
