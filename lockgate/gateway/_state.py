"""What `/metrics` tells of the moment, and its route."""

from collections.abc import Iterable, Mapping

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lockgate._version import __version__
from lockgate.gateway._errors import ApiError
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._hosts import was_forwarded
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._metrics import CONTENT_TYPE, Gauge, Metrics
from lockgate.gateway.upstream import Upstreams


def metrics_route(metrics: Metrics, options: GatewayOptions) -> Route:
    """Return the route that Prometheus reads. Clients may not: it would tell them how close they came."""

    async def page(request: Request) -> Response:
        _check(request, options)
        # It grows with the number of routes and categories; a thread keeps it off the event loop.
        content = await anyio.to_thread.run_sync(metrics.page)
        return Response(content, headers={"content-type": CONTENT_TYPE})

    return Route("/metrics", page, methods=["GET"])


def _check(request: Request, options: GatewayOptions) -> None:
    """Refuse whoever may not read the metrics. Raises ApiError (401, 403)."""
    if options.metrics_key is not None:
        keys = Keyring({"metrics": options.metrics_key})
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or keys.find([given.strip()]) is None:
            raise ApiError(
                401,
                "The metrics have a key of their own: send it as `Authorization: Bearer KEY`.",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
    elif not options.keeps_scores_here or was_forwarded(request.scope):
        raise ApiError(
            403,
            "The metrics are not for clients. Give them a key of their own: --metrics-key-env.",
            code="metrics_closed",
        )


def server_state(gateway: Gateway, upstreams: Upstreams | None) -> Iterable[Gauge]:
    """Return the gauges of a server with a guard."""
    engines, log = gateway.guards.engines, gateway.decisions
    about = gateway.about_guard or {}
    who = (__version__, gateway.mode, str(about.get("sha256") or ""))
    yield Gauge("info", "What serves.", {who: 1.0}, ("version", "mode", "guard"))
    yield single("ready", "Whether requests are taken.", gateway.ready)
    problems = gateway.problems() + ([] if upstreams is None else upstreams.problems())
    yield single("problems", "Faults that are open now.", len(problems))
    streams = {
        "active": sum(engine.active_streams for engine in engines),
        "waiting": sum(engine.waiting for engine in engines),
    }
    yield by_state("streams", "Choices that are written or read, and requests that wait.", streams)
    memory = {
        "used": sum(engine.kv_used_tokens for engine in engines),
        "limit": sum(engine.kv_tokens for engine in engines),
    }
    yield by_state("kv_tokens", "Key-value memory, in tokens.", memory)
    waiting = sum(engine.verdicts.waiting for engine in engines)
    yield single("verdicts_open", "Verdicts of stage 2 that streams wait for.", waiting)
    oldest = max(engine.verdicts.oldest for engine in engines)
    yield single("verdict_oldest_seconds", "Age of the oldest of them.", oldest)
    records = {"written": log.written, "unwritten": log.unwritten, "lost": log.lost}
    yield by_state("decision_records", "Records of the decision log since the start.", records)
    if (budget := about.get("budget")) is not None:
        yield single("refusal_budget", "Share of benign exchanges that the guard may flag.", float(budget))
    yield from guard_state(gateway)
    if upstreams is not None:
        yield from upstream_state(upstreams)


def guard_state(gateway: Gateway) -> Iterable[Gauge]:
    """Return the gauges of each guard, by its name in the config."""
    named = {name: one for name, one in gateway.guards.named.items() if one.engine.scoring is not None}
    bundles: dict[tuple[str, ...], float] = {}
    ready: dict[tuple[str, ...], float] = {}
    streams: dict[tuple[str, ...], float] = {}
    budgets: dict[tuple[str, ...], float] = {}
    for name, one in named.items():
        engine, about = one.engine, one.about_guard or {}
        bundles[name, "" if engine.scoring is None else engine.scoring.guard] = 1.0
        ready[name,] = float(one.ready)
        streams[name, "active"] = float(engine.active_streams)
        streams[name, "waiting"] = float(engine.waiting)
        if (budget := about.get("budget")) is not None:
            budgets[name,] = float(budget)
    yield Gauge("guard_info", "Which bundle a guard is.", bundles, ("guard", "bundle"))
    yield Gauge("guard_ready", "Whether a guard takes requests.", ready, ("guard",))
    yield Gauge("guard_streams", "The same as lockgate_streams, by guard.", streams, ("guard", "state"))
    yield Gauge("guard_refusal_budget", "The same as lockgate_refusal_budget, by guard.", budgets, ("guard",))


def upstream_state(upstreams: Upstreams) -> Iterable[Gauge]:
    """Return the gauges of the upstreams."""
    up: dict[tuple[str, ...], float] = {
        (name,): float(found["status"] == "up") for name, found in upstreams.describe().items()
    }
    yield Gauge("upstream_up", "Whether an upstream is asked, or counts as down.", up, ("upstream",))


def single(name: str, words: str, value: float) -> Gauge:
    return Gauge(name, words, {(): float(value)})


def by_state(name: str, words: str, values: Mapping[str, float]) -> Gauge:
    return Gauge(name, words, {(state,): float(value) for state, value in values.items()}, ("state",))
