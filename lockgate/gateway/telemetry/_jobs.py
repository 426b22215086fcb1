"""The spans of a job: one for each of its exchanges, with what they wait for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context

from lockgate.decisions import Decision
from lockgate.gateway._events import Event, Finished
from lockgate.gateway._jobs import Job
from lockgate.gateway._traces import JobTrace
from lockgate.gateway.telemetry import _names as names
from lockgate.gateway.telemetry._spans import Spans, exchange_attributes, fail, safely

# Verdicts of an exchange that get a span. A long answer asks for hundreds.
MOST_VERDICTS = 64


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A wait for a verdict, in monotonic seconds."""

    asked: float
    over: float
    given: bool


class WatchedJob(JobTrace):
    """Notes what happens to a job, and makes the spans of each choice when its closing event is delivered.

    Args:
        parent: the context of the request's span.
        tell: called with the record of each choice that is over, before the client hears of it.
    """

    __slots__ = ("_deliver", "_ended", "_job", "_parent", "_read", "_spans", "_tell", "_verdicts")

    def __init__(self, spans: Spans, parent: Context, job: Job, tell: Callable[[Decision], None]) -> None:
        self._spans = spans
        self._parent = parent
        self._job = job
        self._tell = tell
        self._deliver = job.deliver
        self._read: float | None = None
        self._verdicts: dict[int, list[_Verdict]] = {}
        self._ended: dict[int, tuple[Decision, float]] = {}
        job.deliver, job.trace = self._take, self

    def read(self) -> None:
        """See `JobTrace.read`."""
        self._read = self._read or time.monotonic()

    def judged(self, choice: int, asked: float, *, given: bool) -> None:
        """See `JobTrace.judged`."""
        found = self._verdicts.setdefault(choice, [])
        if len(found) < MOST_VERDICTS:
            found.append(_Verdict(asked, time.monotonic(), given))

    def ended(self, record: Decision) -> None:
        """See `JobTrace.ended`."""
        self._ended[record.choice] = record, time.monotonic()
        self._tell(record)

    def _take(self, event: Event) -> None:
        # The client comes first.
        self._deliver(event)
        if isinstance(event, Finished):
            with safely():
                self._send(event.choice)

    def _send(self, choice: int) -> None:
        """Make the spans of a choice whose record is written."""
        record, ended = self._ended.pop(choice)
        written, arrived = time.monotonic(), self._job.arrived
        span = self._spans.begin(names.EXCHANGE_SPAN, self._parent, arrived, exchange_attributes(record))
        if record.first_token_ms is not None:
            span.add_event(
                names.FIRST_TEXT, timestamp=self._spans.moment(arrived + record.first_token_ms / 1000)
            )
        if record.decision == "error":
            fail(span, record.fault or "scoring")
        self._add_parts(span, choice, ended, written)
        span.end(self._spans.moment(written))

    def _add_parts(self, span: Span, choice: int, ended: float, written: float) -> None:
        within = set_span_in_context(span)
        started = self._job.started
        if choice == 0:
            # All choices wait for the same.
            arrived = self._job.arrived
            self._spans.add(names.QUEUE_SPAN, within, arrived, ended if started is None else started, {})
            if started is not None:
                read = ended if self._read is None else self._read
                self._spans.add(names.PROMPT_SPAN, within, started, read, {})
        for verdict in self._verdicts.pop(choice, ()):
            given = {names.VERDICT_GIVEN: verdict.given}
            self._spans.add(names.VERDICT_SPAN, within, verdict.asked, verdict.over, given)
        self._spans.add(names.RECORD_SPAN, within, ended, written, {})
