"""Traces of requests: a span for the request, one for each request to an upstream, and those of its jobs."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, format_trace_id, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from lockgate._version import __version__
from lockgate.decisions import Decision
from lockgate.gateway._errors import ApiError
from lockgate.gateway._exchange import METHODS
from lockgate.gateway._jobs import Job
from lockgate.gateway._tracing import RequestTrace, UpstreamCall
from lockgate.gateway.telemetry import _names as names
from lockgate.gateway.telemetry._jobs import WatchedJob
from lockgate.gateway.telemetry._options import TelemetryOptions
from lockgate.gateway.telemetry._spans import Spans, Value, fail, request_attributes, safely

# Pages, health checks and metrics have no traces.
_TRACED = ("/v1/", "/beta/")
_PROPAGATOR = TraceContextTextMapPropagator()
_PARENT, _STATE = "traceparent", "tracestate"
_OWN = "lockgate"


def resource_of(options: TelemetryOptions) -> Resource:
    """Return what the spans and metrics of this process have in common."""
    own = {
        "service.name": options.service_name,
        "service.version": __version__,
        # The metrics of two processes must not be taken for those of one.
        "service.instance.id": str(uuid.uuid4()),
    }
    return OTELResourceDetector().detect().merge(Resource(own))


class _Handover(SpanProcessor):
    """Hands over each span that has ended and is to be sent."""

    def __init__(self, add: Callable[[ReadableSpan], None]) -> None:
        self._add = add

    def on_end(self, span: ReadableSpan) -> None:
        self._add(span)


class Tracing:
    """Begins traces. It implements `Tracer`.

    Args:
        share: share of the traces that are sent, among those that no caller has begun.
        add: takes each span that is over.
    """

    def __init__(self, share: float, resource: Resource, add: Callable[[ReadableSpan], None]) -> None:
        sampler = ParentBased(TraceIdRatioBased(share))
        provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(_Handover(add))
        self._tracer = provider.get_tracer("lockgate", __version__)

    def begin(self, scope: Scope, request_id: str) -> RequestTrace | None:
        """See `Tracer.begin`."""
        trace = None
        if scope["path"].startswith(_TRACED):
            with safely():
                trace = ServerTrace(Spans(self._tracer), scope, request_id)
        return trace if trace is not None and trace.is_valid else None


class ServerTrace(RequestTrace):
    """The trace of a request that this server answers."""

    def __init__(self, spans: Spans, scope: Scope, request_id: str) -> None:
        headers = Headers(scope=scope)
        # Several of them are none, as the standard says. `tracestate` may hold any text: no span gets it.
        parent = _PROPAGATOR.extract({_PARENT: ",".join(headers.getlist(_PARENT))})
        self._follows = get_current_span(parent).get_span_context().is_valid
        self._method = scope["method"] if scope["method"] in METHODS else names.OTHER
        about = {
            names.METHOD: self._method,
            names.SCHEME: str(scope.get("scheme", "http")),
            names.VERSION: str(scope.get("http_version", "1.1")),
            names.REQUEST_ID: request_id,
        }
        self._spans = spans
        self._span = spans.begin(self._method, parent, time.monotonic(), about, SpanKind.SERVER)
        self._within = set_span_in_context(self._span)
        self._model: str | None = None
        self._upstream: str | None = None
        self._records: list[Decision] = []

    @property
    def is_valid(self) -> bool:
        """Whether there is a trace. `OTEL_SDK_DISABLED` turns off those that no caller has begun."""
        return self._span.get_span_context().is_valid

    @property
    def trace_id(self) -> str:
        """See `RequestTrace.trace_id`."""
        return format_trace_id(self._span.get_span_context().trace_id)

    def name_model(self, model: str | None, upstream: str | None = None) -> None:
        """See `RequestTrace.name_model`."""
        self._model, self._upstream = model, upstream

    def watch(self, job: Job) -> None:
        """See `RequestTrace.watch`."""
        with safely():
            if self._span.is_recording():
                WatchedJob(self._spans, self._within, job, self._records.append)

    @contextmanager
    def call(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[UpstreamCall]:
        """See `RequestTrace.call`."""
        call, span = UpstreamCall(headers), None
        with safely():
            span = self._spans.begin(
                *(self._call_name(method, url), self._within, time.monotonic()),
                attributes=self._call_attributes(method, url),
                kind=SpanKind.CLIENT,
            )
            passed = dict(headers)
            if not self._follows:
                passed.pop(_STATE, None)
            _PROPAGATOR.inject(passed, set_span_in_context(span))
            call = UpstreamCall(passed)
        fault: str | None = None
        try:
            yield call
        except ApiError as error:
            fault = error.code or type(error).__name__
            raise
        except Exception as error:
            fault = type(error).__name__
            raise
        finally:
            with safely():
                if span is not None:
                    if call.status is not None:
                        span.set_attribute(names.STATUS, call.status)
                        fault = fault or (str(call.status) if call.status >= 400 else None)
                    if fault is not None:
                        fail(span, fault)
                    span.end(self._spans.moment(time.monotonic()))

    def end(self, route: str, status: int) -> None:
        """See `RequestTrace.end`. What no route has taken is not sent: anybody could send much of it."""
        with safely():
            if route == "-" or not self._span.is_recording():
                return
            self._span.update_name(f"{self._method} {route}")
            found: dict[str, Value] = {names.ROUTE: route, **request_attributes(self._records)}
            if "{" not in route:
                found[names.PATH] = route
            if status:
                found[names.STATUS] = status
            if route in names.OPERATIONS:
                found.update(self._generation(names.OPERATIONS[route]))
            self._span.set_attributes(found)
            if status >= 500:
                fail(self._span, str(status))
            self._span.end(self._spans.moment(time.monotonic()))

    def _generation(self, operation: str) -> dict[str, Value]:
        """Return what the conventions for generative AI want to know of a request for an answer."""
        model = names.OTHER if self._model is None else self._model
        return {names.OPERATION: operation, names.MODEL: model, names.PROVIDER: self._upstream or _OWN}

    def _call_name(self, method: str, url: str) -> str:
        operation = names.operation_of(url)
        if operation is None:
            return method
        return operation if self._model is None else f"{operation} {self._model}"

    def _call_attributes(self, method: str, url: str) -> dict[str, Value]:
        parts = urlsplit(url)
        operation = names.operation_of(url)
        found: dict[str, Value] = {
            names.METHOD: method,
            names.URL: url,
            names.HOST: parts.hostname or "",
            names.PORT: parts.port or (443 if parts.scheme == "https" else 80),
        }
        return found if operation is None else {**found, **self._generation(operation)}
