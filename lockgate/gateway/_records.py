"""Records of a stream: the closing event for the client, and what the decision log gets."""

import math
import time
from dataclasses import dataclass, replace

from lockgate.cascade import ExchangeState
from lockgate.decisions import Content, Decision, DecisionKind, Fault, Scores, Started, Turn, timestamp
from lockgate.gateway._events import Finished, Unserved
from lockgate.gateway._jobs import Job, Stream
from lockgate.gateway._scoring import Scoring

UNCHECKED = "This answer was stopped because it could not be checked."
UNRECORDED = "This answer was stopped because it could not be recorded."


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream is over. `error` names a fault, without user text; `fault` says where it happened.

    `unserved` is what the client is told if the server gave up the request, which is then `cancelled`.
    """

    reason: str
    error: str | None = None
    fault: Fault = "scoring"
    cancelled: bool = False
    unserved: Unserved | None = None


def given_up(why: str, retry_after: int, code: str = "unavailable") -> Ending:
    """Return the ending of a stream that the server gives up.

    Args:
        why: what the client is told.
        retry_after: seconds after which it should try again.
    """
    return Ending("length", cancelled=True, unserved=Unserved(503, code, why, retry_after))


def finished_event(job: Job, stream: Stream, ending: Ending, scoring: Scoring | None) -> Finished:
    """Make the closing event of a stream."""
    kind, enforced = _outcome(job, stream, ending)
    refusal = None
    if enforced and kind in ("halt", "block") and scoring is not None:
        refusal = scoring.refusal
    elif enforced and kind == "error":
        refusal = UNCHECKED
    state = stream.state
    return Finished(
        choice=stream.choice,
        reason="content_filter" if refusal is not None else _reason(ending),
        decision=kind,
        enforced=enforced,
        refusal=refusal,
        category=None if state is None else state.category,
        completion_tokens=stream.answered,
        max_prompt=None if state is None else _number(state.max_prompt),
        max_answer=None if state is None else _number(state.max_answer),
        threshold=_threshold(state, scoring),
        unserved=ending.unserved,
    )


def unrecorded(event: Finished) -> Finished:
    """Return the closing event of a stream whose record can't be written, if that stops answers."""
    if event.refusal is not None:
        return event
    return replace(
        event, reason="content_filter", decision="error", enforced=True, refusal=UNRECORDED, unserved=None
    )


def deliver(job: Job, event: Finished, kept: bool) -> None:
    """Deliver a closing event. The decision log calls this once, and tells whether the record is kept."""
    job.deliver(event if kept else unrecorded(event))


def started_record(job: Job, scoring: Scoring | None) -> Started:
    """Make the record of the begin of a request."""
    return Started(
        id=job.id,
        time=timestamp(),
        mode=job.mode or "enforce",
        guard=None if scoring is None else scoring.guard,
        choices=job.n,
        prompt_tokens=len(job.prompt),
        tenant=job.tenant,
        key=job.key,
    )


def content_of(job: Job, stream: Stream) -> Content | None:
    """Return the text of an exchange, if the job keeps it for the log."""
    if not job.messages:
        return None
    asked = (Turn(message.role, message.content) for message in job.messages)
    return Content((*asked, Turn("assistant", "".join(stream.said))))


def decision_record(
    job: Job, stream: Stream, ending: Ending, event: Finished, scoring: Scoring | None
) -> Decision:
    """Make the record of the decision for the closing event `event`."""
    now = time.monotonic()
    started = now if job.started is None else job.started
    gate = None if stream.lane is None else stream.lane.gate
    state = stream.state
    reason, fault = ending.error, ending.fault
    if reason is None and gate is not None and event.decision == "error":  # the gate has only noted it
        reason, fault = gate.broken, gate.fault
    if event.unserved is not None:
        reason = event.unserved.code
    goes_on = ending.error is not None and not event.enforced
    return Decision(
        id=job.id,
        choice=stream.choice,
        time=timestamp(),
        mode=job.mode or "enforce",
        guard=None if scoring is None else scoring.guard,
        measure=None if scoring is None else scoring.measure,
        decision=event.decision,
        enforced=event.enforced,
        finish_reason=None if ending.cancelled or goes_on else event.reason,
        category=event.category,
        token_index=None if state is None else state.flag_token,
        scores=Scores(event.max_prompt, event.max_answer, event.threshold, _mixed(state)),
        stage=None if state is None else state.stage,
        verdicts=0 if state is None else state.verdicts,
        prompt_tokens=len(job.prompt),
        completion_tokens=event.completion_tokens,
        queue_ms=_milliseconds(started - job.arrived),
        first_token_ms=None
        if stream.first_token is None
        else _milliseconds(stream.first_token - job.arrived),
        total_ms=_milliseconds(now - job.arrived),
        reason=reason,
        fault=fault if event.decision == "error" else None,
        lowered=job.lowered,
        unguarded=event.decision == "error" and not event.enforced and job.opens,
        tenant=job.tenant,
        key=job.key,
    )


def _reason(ending: Ending) -> str:
    """Return why an answer ended that nobody stopped. One that fails open is still being written."""
    return ending.reason if ending.error is None else "stop"


def _outcome(job: Job, stream: Stream, ending: Ending) -> tuple[DecisionKind, bool]:
    """Return the decision, and whether it changes the answer that the client gets."""
    broken = None if stream.lane is None else stream.lane.gate.broken
    flag: DecisionKind = "block" if stream.flagged_at == 0 else "halt"
    # Another thread may give the stream up, or find it late, before its flag has ended it. The flag holds.
    if stream.flagged_at is not None and job.enforced:
        return flag, True
    if ending.error is not None:
        return "error", not job.goes_on
    if stream.flagged_at is not None:
        return flag, False
    if broken is not None:
        return "error", False
    return ("cancelled", False) if ending.cancelled else ("pass", False)


def _mixed(state: ExchangeState | None) -> float | None:
    """Return the largest mixed score, or None if the second stage was not asked."""
    return None if state is None or not state.verdicts else _number(state.mixed_max)


def _threshold(state: ExchangeState | None, scoring: Scoring | None) -> float | None:
    """Return the threshold of the newest token; that of the prompt if nothing was read."""
    if scoring is None:
        return None
    return _number(scoring.stages.alarm if state is None else state.verdict.threshold)


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
