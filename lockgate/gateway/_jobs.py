"""The engine's records: one job for a request, one stream for each of its choices."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lockgate.backbones import RenderedChat, Session, Tap
from lockgate.cascade import CascadeState, Regions
from lockgate.gateway._decisions import Decision, DecisionKind, Fault, Scores, timestamp
from lockgate.gateway._events import Event, Finished
from lockgate.gateway._sampling import Sample, Sampler, SamplingParams
from lockgate.gateway._stream import AnswerGate, State
from lockgate.guards import VerdictSource

UNCHECKED = "This answer was stopped because it could not be checked."


class ScoringTap(Tap, Protocol):
    """A tap that holds the logits `[tokens, heads]` of the newest step."""

    @property
    def logits(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the engine needs of a guard.

    Attributes:
        tap: reads the activations of a step.
        new_state: the state machine of one exchange, as every other way of scoring uses it.
        refusal: what the client is told at a flag.
        guard: hash of the bundle, for the decision log.
        threshold: logit at which a stream flags, for the decision log and the playground; with a second
            stage, at which that is asked.
        second_stage: makes the second stage, given the key-value tokens that it may hold; None without one.
            States are then `CascadeState`.
    """

    tap: ScoringTap
    new_state: Callable[[Regions], State]
    refusal: str
    guard: str
    threshold: float
    second_stage: Callable[[int], VerdictSource] | None = None


@dataclass(slots=True, eq=False)
class Stream:
    """One choice. Owned by the engine's thread; `done` is only set under the engine's lock."""

    choice: int
    session: Session | None = None
    gate: AnswerGate | None = None
    sampler: Sampler | None = None
    pending: Sample | None = None  # sampled, not yet consumed
    read: int = 0  # prompt tokens consumed
    answered: int = 0  # answer tokens consumed
    ids: list[int] = field(default_factory=list)  # those tokens; kept for a second stage only
    ticket: object | None = None  # the verdict that it waits for, and is not planned meanwhile
    asked: bool = False  # whether the second stage holds anything of it
    closing: str | None = None  # why it ends, once the verdict on its last block is there
    first_token: float | None = None
    flagged_at: int | None = None  # answer tokens consumed when the flag rose
    done: bool = False

    def note_flag(self) -> None:
        """Remember how far the answer had come when the stream was flagged."""
        if self.flagged_at is None and self.state is not None and self.state.flagged:
            self.flagged_at = self.answered

    @property
    def state(self) -> State | None:
        return None if self.gate is None else self.gate.state


@dataclass(slots=True, eq=False)
class Job:
    """One request, tokenised. Events go to `deliver`, which is called from the engine's threads."""

    id: str
    prompt: list[int]
    regions: Regions
    max_tokens: int
    n: int
    stops: tuple[str, ...]
    sampling: SamplingParams
    seed_basis: Mapping[str, Any]
    deliver: Callable[[Event], None]
    chat: RenderedChat | None = None
    first_logits: NDArray[np.float32] | None = (
        None  # of the first token, while the prompt waits for a verdict
    )
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    cancelled: bool = False
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.streams = [Stream(choice) for choice in range(self.n)]

    @property
    def prefix(self) -> list[int]:
        """The template's constant first tokens, read once for all streams and never scored."""
        return self.prompt[: self.regions.start]

    @property
    def capacity(self) -> int:
        """Key-value tokens of one choice."""
        return len(self.prompt) + self.max_tokens

    @property
    def done(self) -> bool:
        return all(stream.done for stream in self.streams)

    @property
    def rendered(self) -> RenderedChat:
        """The prompt as it was rendered; made up from the regions where the job was made without it."""
        regions = self.regions
        return self.chat or RenderedChat(
            self.prompt, regions.start, [], regions.prompt_start, len(self.prompt), len(self.prompt)
        )

    def fork_state(self) -> State | None:
        """A copy of the first choice's state, at the end of the prompt that all choices share."""
        return copy.deepcopy(self.streams[0].state)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream is over. `error` names a fault, in words without user text, and `fault` where it lies."""

    reason: str
    error: str | None = None
    fault: Fault = "scoring"
    cancelled: bool = False


def finished_event(job: Job, stream: Stream, ending: Ending, mode: str, scoring: Scoring | None) -> Finished:
    """The closing event of a stream."""
    kind, enforced = _outcome(stream, ending, mode)
    refusal = None
    if enforced and kind in ("halt", "block") and scoring is not None:
        refusal = scoring.refusal
    elif enforced and kind == "error":
        refusal = UNCHECKED
    state = stream.state
    return Finished(
        choice=stream.choice,
        reason="content_filter" if refusal is not None else ending.reason,
        decision=kind,
        enforced=enforced,
        refusal=refusal,
        category=None if state is None else state.category,
        completion_tokens=stream.answered,
        max_prompt=None if state is None else _number(state.max_prompt),
        max_answer=None if state is None else _number(state.max_answer),
        threshold=None if scoring is None else _number(scoring.threshold),
    )


def decision_record(
    job: Job, stream: Stream, ending: Ending, event: Finished, mode: str, scoring: Scoring | None
) -> Decision:
    """The line of the decision log that belongs to `event`."""
    now = time.monotonic()
    started = now if job.started is None else job.started
    gate = stream.gate
    reason, fault = ending.error, ending.fault
    if reason is None and gate is not None and event.decision == "error":  # noted in shadow mode
        reason, fault = gate.broken, gate.fault
    return Decision(
        id=job.id,
        choice=stream.choice,
        time=timestamp(),
        mode=mode,
        guard=None if scoring is None else scoring.guard,
        decision=event.decision,
        enforced=event.enforced,
        finish_reason=None if ending.cancelled else event.reason,
        category=event.category,
        token_index=None if stream.state is None else stream.state.flag_token,
        scores=Scores(event.max_prompt, event.max_answer, event.threshold, _mixed(stream.state)),
        stage=_stage(stream.state),
        verdicts=stream.state.verdicts if isinstance(stream.state, CascadeState) else 0,
        prompt_tokens=len(job.prompt),
        completion_tokens=event.completion_tokens,
        queue_ms=_milliseconds(started - job.arrived),
        first_token_ms=None
        if stream.first_token is None
        else _milliseconds(stream.first_token - job.arrived),
        total_ms=_milliseconds(now - job.arrived),
        reason=reason,
        fault=fault if event.decision == "error" else None,
    )


def _outcome(stream: Stream, ending: Ending, mode: str) -> tuple[DecisionKind, bool]:
    """What the guard found, and whether the client feels it."""
    broken = None if stream.gate is None else stream.gate.broken
    if ending.error is not None:
        return "error", True
    if stream.flagged_at is not None:
        return ("block" if stream.flagged_at == 0 else "halt"), mode == "enforce" and not ending.cancelled
    if broken is not None:
        return "error", False
    return ("cancelled", False) if ending.cancelled else ("pass", False)


def _stage(state: State | None) -> int | None:
    """The last stage that was asked about a stream."""
    if state is None:
        return None
    return 2 if isinstance(state, CascadeState) and state.verdicts else 1


def _mixed(state: State | None) -> float | None:
    return _number(state.mixed_max) if isinstance(state, CascadeState) else None


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
