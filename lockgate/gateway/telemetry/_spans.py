"""Spans by the monotonic clock, what a record says about them, and what holds if one can't be made."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from lockgate.decisions import Decision
from lockgate.gateway.telemetry import _names as names

logger = logging.getLogger("lockgate.telemetry")

Value = str | int | bool | Sequence[str]
_told = False


class Spans:
    """Makes spans whose times are given in monotonic seconds."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._offset = time.time_ns() - time.monotonic_ns()

    def moment(self, seconds: float) -> int:
        """Return a time of the monotonic clock in nanoseconds since 1970."""
        return int(1e9 * seconds) + self._offset

    def begin(
        self,
        name: str,
        parent: Context | None,
        at: float,
        attributes: Mapping[str, Value],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        """Begin a span."""
        return self._tracer.start_span(
            name, parent, kind=kind, attributes=dict(attributes), start_time=self.moment(at)
        )

    def add(
        self, name: str, parent: Context, begun: float, ended: float, attributes: Mapping[str, Value]
    ) -> None:
        """Add a span that is over."""
        self.begin(name, parent, begun, attributes).end(self.moment(max(begun, ended)))


@contextmanager
def safely() -> Iterator[None]:
    """Keep the faults of a trace away from the request. The first one is logged."""
    global _told
    try:
        yield
    except Exception:
        if not _told:
            _told = True
            logger.warning("telemetry: a trace could not be made; requests go on", exc_info=True)


def fail(span: Span, kind: str) -> None:
    """Mark a span as failed. `kind` is one of a few words."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute(names.ERROR, kind)


def exchange_attributes(record: Decision) -> dict[str, Value]:
    """Return what a record of the decision log says, without its scores."""
    found: dict[str, Value | None] = {
        names.EXCHANGE_ID: record.id,
        names.CHOICE: record.choice,
        names.MODE: record.mode,
        names.DECISION: record.decision,
        names.ENFORCED: record.enforced,
        names.GUARD: record.guard,
        names.STAGE: record.stage,
        names.CATEGORY: record.category,
        names.TOKEN_INDEX: record.token_index,
        names.VERDICTS: record.verdicts,
        names.TENANT: record.tenant,
        names.INPUT_TOKENS: record.prompt_tokens,
        names.OUTPUT_TOKENS: record.completion_tokens,
        names.FINISH_REASONS: None if record.finish_reason is None else (record.finish_reason,),
    }
    if record.unguarded:
        found[names.UNGUARDED] = True
    return {name: value for name, value in found.items() if value is not None}


# What counts for a request of several exchanges: the first of these.
_GRAVEST = ("block", "halt", "error", "cancelled", "pass")
# Ids that a request's span carries at most. The spans of the others have theirs.
_MOST_IDS = 16


def request_attributes(records: Sequence[Decision]) -> dict[str, Value]:
    """Return what the records of a request's exchanges come to."""
    if not records:
        return {}
    gravest = min(records, key=lambda record: _GRAVEST.index(record.decision))
    prompts = {record.id: record.prompt_tokens for record in records}
    found: dict[str, Value | None] = {
        names.EXCHANGE_IDS: list(prompts)[:_MOST_IDS],
        names.MODE: gravest.mode,
        names.DECISION: gravest.decision,
        names.ENFORCED: gravest.enforced,
        names.GUARD: gravest.guard,
        names.CATEGORY: gravest.category,
        names.TENANT: gravest.tenant,
        names.INPUT_TOKENS: sum(prompts.values()),
        names.OUTPUT_TOKENS: sum(record.completion_tokens for record in records),
        names.FINISH_REASONS: [record.finish_reason for record in records if record.finish_reason],
    }
    return {name: value for name, value in found.items() if value is not None}
