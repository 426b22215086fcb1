"""The trace of the request that the server works for, if it sends traces.

This file needs no library. `gateway.telemetry` has the traces that are sent.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Scope

from lockgate.gateway._jobs import Job


@dataclass(slots=True)
class UpstreamCall:
    """A request to an upstream.

    Attributes:
        headers: what is sent.
        status: HTTP status of the answer. None until it has begun.
    """

    headers: Mapping[str, str]
    status: int | None = None


class RequestTrace(ABC):
    """The trace of one request. None of its methods raises because of the trace."""

    @property
    @abstractmethod
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""

    @abstractmethod
    def name_model(self, model: str | None, upstream: str | None = None) -> None:
        """Note who writes the answer.

        Args:
            model: the model's name, if this server's config knows it. Names from clients are no bounded set.
            upstream: the upstream's name in the config; None for the model in this process.
        """

    @abstractmethod
    def watch(self, job: Job) -> None:
        """Note what happens to a job of the request from now on."""

    @abstractmethod
    def call(self, method: str, url: str, headers: Mapping[str, str]) -> AbstractContextManager[UpstreamCall]:
        """Note a request to an upstream, from entering to leaving. Its headers name the trace."""

    @abstractmethod
    def end(self, route: str, status: int) -> None:
        """Note the end of the answer.

        Args:
            route: template of the route; "-" if there was none.
            status: HTTP status; 0 if no answer has begun.
        """


class Tracer(Protocol):
    """Begins the traces of a server."""

    def begin(self, scope: Scope, request_id: str) -> RequestTrace | None:
        """Begin the trace of a request. None if this one has none. It does not raise."""


CURRENT: ContextVar[RequestTrace | None] = ContextVar("lockgate_trace", default=None)


def current_trace() -> RequestTrace | None:
    """Return the trace of the request that this task or thread works for."""
    return CURRENT.get()


def traced(job: Job, model: str | None = None) -> Job:
    """Let the trace of the current request, if there is one, follow a job of it.

    Args:
        model: the model in this process that writes the answer, if one does.
    """
    trace = CURRENT.get()
    if trace is not None:
        if model is not None:
            trace.name_model(model)
        trace.watch(job)
    return job


def traced_call(method: str, url: str, headers: Mapping[str, str]) -> AbstractContextManager[UpstreamCall]:
    """Note a request to an upstream in the trace of the current request, if there is one."""
    trace = CURRENT.get()
    return nullcontext(UpstreamCall(headers)) if trace is None else trace.call(method, url, headers)
