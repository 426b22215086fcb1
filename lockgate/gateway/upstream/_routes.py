"""The routes of upstream mode: each API of the upstream under the guard, and its list of models."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from lockgate.gateway._bodies import decode_body, read_body
from lockgate.gateway._clients import caller_of, key_of
from lockgate.gateway._errors import ApiError, json_response, no_such_model
from lockgate.gateway._events import Event, deliver_to
from lockgate.gateway._exchange import id_of
from lockgate.gateway._gateway import Gateway, gateway_of
from lockgate.gateway._keyring import Keyring
from lockgate.gateway.upstream._answer import Call, RelayedAnswer, error_of
from lockgate.gateway.upstream._chat import ChatDialect
from lockgate.gateway.upstream._client import UpstreamClient
from lockgate.gateway.upstream._completions import CompletionsDialect
from lockgate.gateway.upstream._dialect import Asked, Dialect
from lockgate.gateway.upstream._messages import MessagesDialect
from lockgate.gateway.upstream._responses import ResponsesDialect
from lockgate.gateway.upstream._upstreams import Upstreams, UpstreamTable
from lockgate.gateway.upstream._wrong import decoded

DIALECTS: tuple[Dialect, ...] = (
    ChatDialect(),
    CompletionsDialect(),
    ResponsesDialect(),
    MessagesDialect(),
)


GUARDED_ROUTES = tuple(f"/v1{dialect.path}" for dialect in DIALECTS)


def upstream_routes(upstreams: Upstreams, keyring: Keyring) -> list[BaseRoute]:
    """Return the routes that guard the answers of upstreams.

    Args:
        keyring: the keys of this server. If it has any, a client's key is not the upstream's.
    """
    routes: list[BaseRoute] = [
        Route(f"/v1{dialect.path}", _guarded(upstreams, dialect), methods=["POST"]) for dialect in DIALECTS
    ]
    return [*routes, *model_routes(upstreams, keyring)]


def _guarded(upstreams: Upstreams, dialect: Dialect) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            return await _answer(gateway_of(request), upstreams, dialect, request)
        except ApiError as error:
            return json_response(dialect.error(error), error.status, error.headers)

    return endpoint


async def _answer(gateway: Gateway, upstreams: Upstreams, dialect: Dialect, request: Request) -> Response:
    with gateway.bodies.share() as share:
        body = await read_body(request, share)
        client, asked = await gateway.decode(lambda: _read_request(gateway, upstreams, dialect, body))
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    deliver = deliver_to(queue)
    job = await gateway.prepare_given(
        asked.messages,
        deliver,
        caller_of(request),
        n=asked.choices,
        max_tokens=asked.max_tokens,
        begin=lambda: deliver(None),
        policy=gateway.policies.of(f"/v1{dialect.path}", key_of(request)),
        hold=gateway.options.hold,
    )
    job.route = f"/v1{dialect.path}"
    gateway.follow(job, request)
    headers = client.headers_for(request.headers, own_key=bool(gateway.keyring), name=id_of(request))
    return RelayedAnswer(Call(gateway, client, dialect, asked, headers), job, queue)


def _read_request(
    gateway: Gateway, upstreams: Upstreams, dialect: Dialect, body: bytes
) -> tuple[UpstreamClient, Asked]:
    payload = decode_body(body)
    client = upstreams.find(payload)
    most = gateway.options.engine.max_streams
    return client, dialect.read_request(payload, client.options.media, most)


def model_routes(upstreams: Upstreams, keyring: Keyring) -> list[BaseRoute]:
    """Return the routes for the list of models, and for one of them.

    The list is the upstream's own, or that of the models by which an upstream is chosen.
    """

    async def fetch(request: Request) -> bytes:
        if upstreams.reads_model:
            return msgspec.json.encode(_listed(upstreams.table))
        client = upstreams.find({})
        headers = client.headers_for(request.headers, own_key=bool(keyring), name=id_of(request))
        async with client.send("GET", "/models", headers) as response:
            if response.status_code != 200:
                raise await error_of(client, response)
            return await client.read(response)

    async def models(request: Request) -> Response:
        return Response(await fetch(request), media_type="application/json")

    async def model(request: Request) -> Response:
        # The name never becomes part of a path, because it could lead elsewhere on the upstream.
        found = decoded(await fetch(request)).get("data")
        for entry in found if isinstance(found, list) else ():
            if isinstance(entry, dict) and entry.get("id") == request.path_params["model"]:
                return json_response(entry)
        raise no_such_model()

    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model:path}", model, methods=["GET"]),
    ]


def _listed(table: UpstreamTable) -> dict[str, Any]:
    data = [{"id": model, "object": "model", "owned_by": name} for model, name in table.models.items()]
    return {"object": "list", "data": data}
