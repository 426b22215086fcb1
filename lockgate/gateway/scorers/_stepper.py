"""The engine's stepper where scorers elsewhere read the answers.

The gateway keeps what decides: gates, verdicts, policies and the decision log. A scorer only turns tokens
into logits. A step is a call that is under way: the engine's thread never waits for it, so a slow scorer
delays its own streams alone, and a dead one ends only these.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from lockgate.backbones import Backbone, RenderedChat, Session
from lockgate.gateway._admission import most_tokens
from lockgate.gateway._given import GivenLane, GivenStepper
from lockgate.gateway._jobs import Job, Stream
from lockgate.gateway._packed import Found, PackedPortion
from lockgate.gateway._phases import Held, ReadingPrompt, Receiving, waits_in_prompt
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stepper import ScoringFault, Wiring
from lockgate.gateway.scorers._core import Part, Reading
from lockgate.gateway.scorers._sessions import (
    GONE,
    LATE,
    NONE_FREE,
    Scorer,
    ScorerPool,
    Scorers,
    ScorerSession,
)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A step of a scorer that is under way.

    Attributes:
        sessions: the session of each portion. A stream that has ended meanwhile has lost its own.
        deadline: when the scorer counts as hung, on the monotonic clock.
    """

    portions: Sequence[PackedPortion]
    sessions: Sequence[ScorerSession]
    reading: "Future[list[Reading]]"
    deadline: float

    def results(self) -> list[Reading]:
        """Return what was read for each portion. If the scorer is gone or hangs, its leases are lost."""
        reason = GONE
        if not self.reading.done():
            reason = LATE
        elif self.reading.exception() is None:
            return self.reading.result()
        for session in self.sessions:
            session.lease.lose(reason)
        return [Reading(fault=reason)] * len(self.portions)


class ScorerStepper(GivenStepper):
    """A stepper whose tokens are read by scorers. It only takes answers that are written elsewhere.

    Args:
        scoring: the guard.
        scorers: who reads.
        width: streams that are read at a time, with all scorers together.
        kv_tokens: key-value tokens of all scorers together.
        of_one: key-value tokens of one scorer.
        step_timeout: seconds after which a scorer that does not answer counts as gone.
        patience: seconds that a request waits for a scorer with room.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring,
        scorers: Scorers,
        wiring: Wiring,
        *,
        width: int,
        kv_tokens: int,
        of_one: int,
        step_timeout: float,
        patience: float,
    ) -> None:
        self._leased = ScorerPool(backbone, kv_tokens, scorers, wiring.tell)
        super().__init__(backbone, scoring, self._leased, wiring, width=width)
        self._tell = wiring.tell
        self._of_one = of_one
        self._step_timeout = step_timeout
        self._patience = patience
        self._calls: list[Call] = []
        self._back: list[Call] = []  # calls whose results the next step takes

    @property
    def takes_guards(self) -> bool:
        """Whether another guard can take over: not while scorers have the old one."""
        return False

    def warm(self, chat: RenderedChat) -> None:
        """Do nothing: a scorer warms itself."""

    def open(self, job: Job) -> None:
        """Ask for a scorer and set up the first choice. Raises PoolFull."""
        if not job.intakes:
            raise RuntimeError("scorers only read answers that are written elsewhere")
        # The engine has counted with the memory of all scorers. What is longer is read in windows.
        job.memory = min(job.memory, most_tokens(self._of_one, job.n) // job.n)
        super().open(job)

    def plan(self, active: Sequence[Job]) -> list[PackedPortion]:
        """Return the portions that have come back, and those that can be sent."""
        now = time.monotonic()
        self._drop_lost(active, now)
        self._back = [call for call in self._calls if call.reading.done() or call.deadline <= now]
        self._calls = [call for call in self._calls if call not in self._back]
        return [*(portion for call in self._back for portion in call.portions), *super().plan(active)]

    def run(self, portions: Sequence[PackedPortion]) -> None:
        """Take what has come back, and send the rest."""
        back, self._back = self._back, []
        old = {id(portion) for call in back for portion in call.portions}
        fresh = [portion for portion in portions if id(portion) not in old]
        for call in back:
            self._take_back(call.portions, call.sessions, call.results())
        self._send([portion for portion in fresh if portion.token_ids and not portion.stream.done])
        self._go_on_all([portion for portion in fresh if not portion.token_ids])

    def due_at(self, active: Sequence[Job]) -> float | None:
        """Return when to look again: at text that is due, a scorer that hangs, or one that was not free."""
        times = [call.deadline for call in self._calls]
        times += [
            session.lease.since + self._patience
            for _, _, session in _sessions_of(active)
            if session.lease.pending
        ]
        if (own := super().due_at(active)) is not None:
            times.append(own)
        return min(times, default=None)

    def _reserve(self, job: Job) -> Session:
        return self._leased.open_leased(job.capacity, job.prefix, job.n)

    def _is_runnable(self, stream: Stream) -> bool:
        lane = stream.lane
        if not isinstance(lane, GivenLane):
            return False
        session = _session(lane)
        return not session.busy and not session.lease.pending and super()._is_runnable(stream)

    def _drop_lost(self, active: Sequence[Job], now: float) -> None:
        """End the streams whose scorer is gone, also those that have nothing to read at the moment."""
        for job, stream, session in _sessions_of(active):
            lease = session.lease
            if lease.pending and lease.since + self._patience <= now:
                lease.lose(NONE_FREE)
            reads = isinstance(stream.phase, ReadingPrompt | Receiving | Held)
            if not lease.lost or not reads or session.busy or _begins_anew(job, session):
                continue
            if not stream.opened.gate.tolerant:
                whole = isinstance(stream.phase, ReadingPrompt) or waits_in_prompt(stream.phase)
                self._fail(job, stream, ScoringFault(lease.lost), whole=whole)

    def _send(self, portions: Sequence[PackedPortion]) -> None:
        by_scorer: dict[Scorer, list[tuple[PackedPortion, ScorerSession]]] = {}
        for portion in portions:
            session = _session(portion.stream.opened)
            scorer = session.lease.scorer
            if session.lease.lost is not None or scorer is None:
                self._take_back([portion], [session], [Reading(fault=session.lease.lost or GONE)])
                continue
            session.introduce(portion.job.prefix)
            session.busy = True
            by_scorer.setdefault(scorer, []).append((portion, session))
        for scorer, group in by_scorer.items():
            parts = [
                Part(session.name, session.length, list(portion.token_ids)) for portion, session in group
            ]
            reading = scorer.read(parts)
            deadline = time.monotonic() + self._step_timeout
            self._calls.append(
                Call([one for one, _ in group], [session for _, session in group], reading, deadline)
            )
            reading.add_done_callback(lambda _: self._tell())

    def _take_back(
        self,
        portions: Sequence[PackedPortion],
        sessions: Sequence[ScorerSession],
        readings: Sequence[Reading],
    ) -> None:
        taken: list[PackedPortion] = []
        results: list[Found | Exception] = []
        for portion, session, reading in zip(portions, sessions, readings, strict=True):
            session.busy = False
            if reading.fault is not None and _begins_anew(portion.job, session):
                continue  # the same portion is planned again
            taken.append(portion)
            lane = portion.stream.lane
            if reading.fault is None:
                results.append(Found(None, np.asarray(reading.rows)))
            elif lane is not None and lane.gate.tolerant:
                results.append(Found(None, None))  # the gate notes it, and the answer goes on unjudged
            else:
                results.append(ScoringFault(reading.fault))
            session.length += len(portion.token_ids)
        self._take_all(taken, results)


def _sessions_of(active: Sequence[Job]) -> list[tuple[Job, Stream, ScorerSession]]:
    return [
        (job, stream, _session(stream.lane))
        for job in active
        for stream in job.streams
        if not stream.done and isinstance(stream.lane, GivenLane)
    ]


def _begins_anew(job: Job, session: ScorerSession) -> bool:
    """Tell whether a stream can go to another scorer, because its own is gone and had read nothing of it."""
    return session.length <= len(job.prefix) and session.renew()


def _session(lane: object) -> ScorerSession:
    if not isinstance(lane, GivenLane) or not isinstance(lane.session, ScorerSession):
        raise ScoringFault("a stream of another kind")
    return lane.session
