"""The ASGI application: its routes, and the checks on who may call them."""

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from lockgate._version import __version__
from lockgate.gateway._answers import Answer
from lockgate.gateway._bodies import read_body
from lockgate.gateway._clients import caller_of, key_of
from lockgate.gateway._door import KeyCheck
from lockgate.gateway._errors import (
    ApiError,
    error_response,
    handle_api_error,
    json_response,
    no_such_model,
)
from lockgate.gateway._events import Event, deliver_to
from lockgate.gateway._exchange import ExchangeFrame
from lockgate.gateway._gateway import Gateway, gateway_of
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._guards import engine_state
from lockgate.gateway._hosts import LOOPBACK_NAMES, HostCheck, was_forwarded
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._metrics import Metrics
from lockgate.gateway._state import metrics_route, server_state, upstream_state
from lockgate.gateway._tenancy import Tenancy
from lockgate.gateway.checks import CHECK_ROUTES, Checks
from lockgate.gateway.openapi import openapi_route
from lockgate.gateway.telemetry import Telemetry
from lockgate.gateway.upstream import UpstreamClient, Upstreams, passing_routes, upstream_routes

PLAYGROUND = "lockgate.gateway.playground"


def create_app(
    gateway: Gateway,
    upstream: UpstreamClient | Upstreams | None = None,
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the application around `gateway`. Its lifespan starts and closes the gateway.

    Args:
        upstream: the servers that write the answers. They are closed with the application. None lets the
            gateway's own model write them.
        pages: routes of pages for people, such as the dashboard. They ask who calls themselves.
    """
    upstreams = Upstreams.of(upstream) if isinstance(upstream, UpstreamClient) else upstream
    own: list[BaseRoute] = [
        Route("/v1/chat/completions", _chat_completions, methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{model:path}", _model, methods=["GET"]),
    ]
    routes: list[BaseRoute] = [
        *(own if upstreams is None else upstream_routes(upstreams, gateway.keyring)),
        Route("/health", _health, methods=["GET"]),
        Route("/healthz", _health, methods=["GET"]),
        Route("/readyz", _readyz, methods=["GET"]),
        metrics_route(gateway.metrics, gateway.options),
        *CHECK_ROUTES,
    ]
    described = openapi_route(routes, "engine" if upstreams is None else "relay")
    routes += [described, *pages, *playground_routes()]
    gateway.metrics.state = lambda: server_state(gateway, upstreams)
    frame = Middleware(ExchangeFrame, metrics=gateway.metrics, tracer=gateway.telemetry.tracer)
    app = _framed(routes, gateway.options, gateway.keyring, _lifespan(gateway, upstreams), frame)
    app.state.gateway = gateway
    app.state.upstreams = upstreams
    app.state.checks = Checks(gateway)
    return app


def create_passing_app(
    options: GatewayOptions, upstream: UpstreamClient | Upstreams, keyring: Keyring | None = None
) -> Starlette:
    """Build the application of mode `off` in front of upstreams. It has no guard and reads nothing.

    Args:
        keyring: the keys of `options`, if the caller wants to change them later.
    """
    upstreams = Upstreams.of(upstream) if isinstance(upstream, UpstreamClient) else upstream
    keys = Keyring(options.all_keys, options.tenants) if keyring is None else keyring
    metrics = Metrics()
    metrics.state = lambda: upstream_state(upstreams)
    tenancy = Tenancy(options.tenants, metrics)
    telemetry = Telemetry(options.telemetry, metrics)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tenancy.open()
        upstreams.start()
        telemetry.start()
        try:
            yield
        finally:
            await upstreams.close()
            await asyncio.to_thread(tenancy.close)
            await asyncio.to_thread(telemetry.close)

    async def health(_: Request) -> Response:
        return json_response({"status": "ok", "mode": "off", "calibrated": None, "version": __version__})

    async def readyz(_: Request) -> Response:
        problems = upstreams.problems() + tenancy.problems()
        status = "degraded" if problems else "ready"
        about = {"problems": problems, "upstreams": upstreams.describe()}
        return json_response({"status": status, "mode": "off", "guard": None, **about})

    routes: list[BaseRoute] = [
        *passing_routes(upstreams, keys),
        Route("/health", health, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        metrics_route(metrics, options),
    ]
    routes.append(openapi_route(routes, "pass"))
    frame = Middleware(ExchangeFrame, metrics=metrics, tracer=telemetry.tracer)
    return _framed(routes, options, keys, lifespan, frame)


def _framed(
    routes: list[BaseRoute],
    options: GatewayOptions,
    keyring: Keyring,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    frame: Middleware,
) -> Starlette:
    """Put what every server has around routes: checks of host and key, and the shape of errors."""
    middleware = [frame]
    if options.loopback or options.allowed_hosts:
        # Another site can point its own name at this machine (DNS rebinding). The Host header shows the name.
        names = (*LOOPBACK_NAMES, *options.allowed_hosts)
        middleware.append(Middleware(HostCheck, names=names, health_for_all=not options.loopback))
    if keyring:
        middleware.append(Middleware(KeyCheck, keyring=keyring))
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={ApiError: handle_api_error, HTTPException: _handle_http, Exception: _handle_any},
    )


def playground_routes() -> list[BaseRoute]:
    """Return the routes of the playground, or none if this installation has no playground module."""
    if importlib.util.find_spec(PLAYGROUND) is None:
        return []
    return list(importlib.import_module(PLAYGROUND).routes)


def _lifespan(
    gateway: Gateway, upstreams: Upstreams | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gateway.start()
        if upstreams is not None:
            upstreams.start()
        try:
            yield
        finally:
            await asyncio.to_thread(gateway.close)
            if upstreams is not None:
                await upstreams.close()

    return lifespan


async def _chat_completions(request: Request) -> Response:
    gateway = gateway_of(request)
    with gateway.bodies.share() as share:
        chat = await gateway.parse(await read_body(request, share))
    queue: asyncio.Queue[Event] = asyncio.Queue()
    policy = gateway.policies.of("/v1/chat/completions", key_of(request))
    job = await gateway.prepare(chat, deliver_to(queue), caller_of(request), policy)
    job.route = "/v1/chat/completions"
    gateway.follow(job, request)
    wanted = request.headers.get("x-lockgate-risk") == "1"
    risk = wanted and gateway.options.sends_risk and not was_forwarded(request.scope)
    # The job has the prompt as tokens. Its text is not kept while the answer is written.
    return Answer(gateway, replace(chat, messages=()), job, queue, risk=risk)


def _describe_model(gateway: Gateway) -> dict[str, Any]:
    return {
        "id": gateway.model_id,
        "object": "model",
        "created": gateway.created,
        "owned_by": "lockgate",
        "context_length": gateway.backbone.context_length,
        "lockgate": {"mode": gateway.mode, "guard": gateway.about_guard},
    }


async def _models(request: Request) -> Response:
    return json_response({"object": "list", "data": [_describe_model(gateway_of(request))]})


async def _model(request: Request) -> Response:
    gateway = gateway_of(request)
    name = request.path_params["model"]
    if name not in (gateway.model_id, *gateway.options.model_names):
        raise no_such_model()
    return json_response({**_describe_model(gateway), "id": name})


async def _health(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    alive = all(engine.alive for engine in gateway.guards.engines)
    about = gateway.about_guard
    body = {
        "status": "ok" if alive else "down",
        "mode": gateway.mode,
        "calibrated": None if about is None else about.get("calibrated"),
        "version": __version__,
    }
    return json_response(body, 200 if alive else 503)


async def _readyz(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    log = gateway.decisions
    upstreams: Upstreams | None = request.app.state.upstreams
    problems = gateway.problems() + ([] if upstreams is None else upstreams.problems())
    ready = gateway.ready
    status = ("degraded" if problems else "ready") if ready else "unavailable"
    body: dict[str, Any] = {
        "status": status,
        "mode": gateway.mode,
        "guard": gateway.about_guard,
        "problems": problems,
        **engine_state(gateway.engine),
        "decisions": {
            "written": log.written,
            "unwritten": log.unwritten,
            "spilled": log.spilled,
            "lost": log.lost,
        },
    }
    if further := gateway.guards.further:
        body["guards"] = {name: _describe_guard(one) for name, one in further.items()}
    if upstreams is not None:
        body["upstreams"] = upstreams.describe()
        body["fails_open"] = gateway.policies.open_routes
    return json_response(body, 200 if ready else 503)


def _describe_guard(gateway: Gateway) -> dict[str, Any]:
    return {"ready": gateway.ready, "guard": gateway.about_guard, **engine_state(gateway.engine)}


async def _handle_http(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "Internal error"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return error_response(ApiError(status, detail, headers=headers))


async def _handle_any(_: Request, error: Exception) -> Response:
    return error_response(ApiError(500, "The server failed to handle this request.", kind="server_error"))
