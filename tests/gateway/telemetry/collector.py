"""A collector for OTLP over HTTP, behind a real socket, and what it has received."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
from browsers import serving_app
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lockgate.gateway import TelemetryOptions


def plain(value: Any) -> Any:
    """The value of an attribute."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind)


def attributes_of(message: Any) -> dict[str, Any]:
    return {entry.key: plain(entry.value) for entry in message.attributes}


@dataclass
class Collector:
    """The running collector.

    Attributes:
        status: what it answers.
        gate: requests wait until it is set.
        arrived: set when a request has come.
    """

    url: str = ""
    status: int = 200
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.headers.append(headers)
        if self.status == 200:
            self.bodies.setdefault(path, []).append(body)
        else:
            self.refused += 1
        self.arrived.set()

    @property
    def everything(self) -> bytes:
        return b"".join(body for bodies in self.bodies.values() for body in bodies)

    @property
    def requests(self) -> list[Any]:
        bodies = self.bodies.get("/v1/traces", [])
        return [ExportTraceServiceRequest.FromString(body) for body in bodies]

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.named(name)
        return span

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest metrics, by name."""
        newest = ExportMetricsServiceRequest.FromString(self.bodies["/v1/metrics"][-1])
        (resource,) = newest.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""
    made = Collector()
    made.gate.set()

    def wait() -> None:
        made.gate.wait(30)

    async def receive(request: Request) -> Response:
        body = await request.body()
        made.take(request.url.path, dict(request.headers), body)
        if not made.gate.is_set():
            await anyio.to_thread.run_sync(wait)
        return Response(status_code=made.status)

    routes = [Route("/v1/{signal}", receive, methods=["POST"])]
    with serving_app(Starlette(routes=routes)) as url:
        made.url = url
        try:
            yield made
        finally:
            made.gate.set()


def sending_to(collector: Collector, **options: Any) -> TelemetryOptions:
    """Options of a server that sends when it ends, unless they say more."""
    return TelemetryOptions(collector.url, **{"interval": 600.0, **options})
