"""Streams whose answers are written elsewhere: their text arrives, is read, scored and released.

They share steps, turns and memory with streams that the model writes here. In a step a stream reads its
settled tokens and its tail. The settled ones go through the gate, as any token does. The tail may change, so
its scores are only tried on a copy of the state: if it would leave at once, its text leaves. Then the session
is cut back, and the tail is read again once it is settled.

A stream that is longer than its memory continues in a window: the session forgets its older half.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Session, SessionPool, TextToken
from lockgate.gateway._intake import GivenText, Intake
from lockgate.gateway._jobs import Job, Stream
from lockgate.gateway._options import EngineOptions, default_kv_tokens
from lockgate.gateway._packed import Found, PackedPortion, PackedStepper, SessionLane
from lockgate.gateway._phases import Held, ReadingPrompt, Receiving
from lockgate.gateway._scheduler import PREFILL_BUDGET, share_between_clients
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stepper import ScoringFault, Wiring
from lockgate.gateway._stream import Outflow
from lockgate.guards import Conversation

# Settled tokens of one stream in one step. More would delay the other streams of the step.
TOKENS_PER_TURN = 64
# A conversation in windows has no last token. Its memory is the window's.
ENDLESS = 1 << 40


@dataclass(slots=True, eq=False)
class Progress:
    """How far a given stream has been read.

    Attributes:
        position: conversation tokens that have been read and are settled.
        again: of these, how many the session has still to read again in its new window.
        scored: settled tokens of the answer with their rows `[1, outputs]`, which wait for a verdict.
        cleared: with a hold, what leaves when all of these are cleared too.
    """

    position: int
    again: int = 0
    scored: deque[tuple[TextToken, NDArray[np.float32] | None]] = field(default_factory=deque)
    cleared: list[Outflow] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class GivenLane(SessionLane):
    """A lane whose answer arrives as text."""

    intake: Intake
    text: GivenText
    progress: Progress


@dataclass(frozen=True, slots=True)
class GivenPortion(PackedPortion):
    """What a given stream feeds into a step: tokens to read again, or prompt, or settled tokens and tail."""

    again: bool = False
    settled: Sequence[TextToken] = ()
    tail: Sequence[TextToken] = ()


class GivenStepper(PackedStepper):
    """A stepper that also reads answers that are written elsewhere. Jobs with intakes are such answers."""

    @property
    def reads_given(self) -> bool:
        """Whether there is a guard that reads answers."""
        return self._scoring is not None

    def open(self, job: Job) -> None:
        """Reserve memory and set up the first choice. Raises PoolFull."""
        if not job.intakes:
            super().open(job)
            return
        if self._scoring is None:
            raise RuntimeError("without a guard there is nothing to read an answer for")
        if job.capacity <= len(job.prefix):
            raise RuntimeError("there is no memory behind the template's prefix")
        first = job.streams[0]
        text = GivenText()
        gate = job.gate(self._scoring.stages.new_state(job.regions, job.lowered), text)
        session = self._reserve(job)
        first.lane = GivenLane(
            gate, _conversation(job), session, job.intakes[0], text, Progress(len(job.prefix))
        )
        first.state, first.phase = gate.state, ReadingPrompt()

    def _reserve(self, job: Job) -> Session:
        """Open the session of the first choice. Raises PoolFull."""
        return self._pool.open(job.capacity, job.prefix)

    def run(self, portions: Sequence[PackedPortion]) -> None:
        """Take one packed step, and end the streams that have nothing more to read."""
        reading = [portion for portion in portions if portion.token_ids]
        if reading:
            super().run(reading)
        self._go_on_all([portion for portion in portions if not portion.token_ids])

    def _go_on_all(self, portions: Sequence[PackedPortion]) -> None:
        """Go on with streams that have nothing to read in this step."""
        for job, stream in [(one.job, one.stream) for one in portions]:
            try:
                self._go_on(job, stream)
                _tell_if_caught_up(job, stream)
            except Exception as error:  # any fault must close the stream
                self._fail(job, stream, error, whole=False)

    def _is_runnable(self, stream: Stream) -> bool:
        lane = stream.lane
        if not isinstance(lane, GivenLane):
            return super()._is_runnable(stream)
        match stream.phase:
            case ReadingPrompt():
                return True
            case Receiving():
                return lane.intake.is_due or lane.progress.again > 0
        return False

    def due_at(self, active: Sequence[Job]) -> float | None:
        streams = [stream for job in active if job.intakes for stream in job.streams if _receives(stream)]
        times = [_lane(stream).intake.due_at for stream in streams]
        return min((at for at in times if at is not None), default=None)

    def _portions(self, chosen: Sequence[tuple[Job, Stream]]) -> list[PackedPortion]:
        own = [(job, stream) for job, stream in chosen if not job.intakes]
        given = [(job, stream) for job, stream in chosen if job.intakes]
        portions = super()._portions(own)
        bulk = [(job, stream, _bulk(job, stream)) for job, stream in given]
        busy = [entry for entry in bulk if entry[2]]
        read = sum(len(portion.token_ids) for portion in portions if portion.is_prompt)
        shares = share_between_clients(
            [job.client for job, _, _ in busy],
            [left for _, _, left in busy],
            max(PREFILL_BUDGET // 2, PREFILL_BUDGET - read),
        )
        for (job, stream, _), share in zip(busy, shares, strict=True):
            if share:
                portions.append(self._bulk_portion(job, stream, share))
        for job, stream in [(job, stream) for job, stream, left in bulk if not left]:
            try:
                portions.append(self._arrived(job, stream))
            except Exception as error:  # any fault must close the stream, and no other one
                self._fail(job, stream, error, whole=False)
        return portions

    def _bulk_portion(self, job: Job, stream: Stream, share: int) -> GivenPortion:
        """Return a portion of the prompt, or of what a new window must read again."""
        lane = _lane(stream)
        progress = lane.progress
        if not progress.again:
            share = min(share, self._room(lane))
        start = progress.position - progress.again
        end = min(start + share, progress.position if progress.again else len(job.prompt))
        tokens = lane.conversation.tokens(start, end)
        in_prompt = isinstance(stream.phase, ReadingPrompt)
        return GivenPortion(job, stream, tokens, in_prompt, False, again=progress.again > 0)

    def _arrived(self, job: Job, stream: Stream) -> GivenPortion:
        """Return the portion of what has arrived. It is empty if only the end has, or a new window begins."""
        lane = _lane(stream)
        room = self._room(lane)
        taken = lane.intake.take(min(room, TOKENS_PER_TURN))
        tail = taken.tail if len(taken.tail) <= min(room - len(taken.settled), TOKENS_PER_TURN) else ()
        ids = [token.id for token in (*taken.settled, *tail)]
        return GivenPortion(job, stream, ids, False, False, settled=taken.settled, tail=tail)

    def _room(self, lane: GivenLane) -> int:
        """Return how many tokens the session can read. If there are none, begin a new window.

        It keeps the template's prefix, and half of the memory behind it is read again.
        """
        session, progress = lane.session, lane.progress
        if session.length == session.capacity:
            start = lane.conversation.chat.prefix_length
            session.truncate(start)
            progress.again = min(progress.position - start, (session.capacity - start) // 2)
            return 0
        return session.capacity - session.length

    def _take(self, portion: PackedPortion, found: Found) -> None:
        if not isinstance(portion, GivenPortion):
            super()._take(portion, found)
            return
        progress = _lane(portion.stream).progress
        if portion.again:
            progress.again -= len(portion.token_ids)
        elif portion.is_prompt:
            progress.position += len(portion.token_ids)
            self._take_given_prompt(portion, found)
        else:
            self._take_given(portion, found)

    def _take_given_prompt(self, portion: GivenPortion, found: Found) -> None:
        job, stream = portion.job, portion.stream
        gate = stream.opened.gate
        scores = self._usable(gate, found.scores, len(portion.token_ids))
        if scores is not None:
            gate.read_prompt(scores)
        stream.note_flag()
        if gate.halted:
            self._halt(job, stream, whole=True)
        elif _lane(stream).progress.position < len(job.prompt):
            return
        elif self._is_due(stream):
            stream.phase = Held(self._ask_for(stream), in_prompt=True)
        else:
            self._begin_given(job)

    def _begin_given(self, job: Job) -> None:
        """Let the answers come, after the prompt was read and cleared."""
        job.trace.read()
        first = job.streams[0]
        origin = _lane(first)
        for stream in job.streams[1:]:
            stream.flagged_at = first.flagged_at
            text = GivenText()
            gate = job.gate(job.fork_state(), text)
            gate.broken, gate.fault = origin.gate.broken, origin.gate.fault
            session = origin.session.fork(job.capacity)
            stream.lane = replace(
                origin,
                gate=gate,
                conversation=_conversation(job),
                session=session,
                intake=job.intakes[stream.choice],
                text=text,
                progress=Progress(origin.progress.position),
            )
            stream.state = gate.state
        for stream in job.streams:
            stream.phase = Receiving()
        job.begin()

    def _take_given(self, portion: GivenPortion, found: Found) -> None:
        job, stream = portion.job, portion.stream
        lane, count = _lane(stream), len(portion.settled)
        lane.session.truncate(lane.session.length - len(portion.tail))
        lane.progress.position += count
        scores = self._usable(lane.gate, found.scores, len(portion.token_ids))
        for index, token in enumerate(portion.settled):
            lane.progress.scored.append((token, None if scores is None else scores[index : index + 1]))
        self._go_on(job, stream)
        if portion.tail and isinstance(stream.phase, Receiving) and not stream.done:
            self._let_tail_out(job, stream, portion.tail, None if scores is None else scores[count:])
        _tell_if_caught_up(job, stream)

    def _let_tail_out(
        self, job: Job, stream: Stream, tail: Sequence[TextToken], rows: NDArray[np.float32] | None
    ) -> None:
        lane = _lane(stream)
        if lane.gate.would_clear(rows):
            self._let_out(job, stream, lane.text.ahead("".join(token.text for token in tail)))

    def _go_on(self, job: Job, stream: Stream) -> None:
        """Clear what is scored, as far as no verdict is due. End the stream if that was all."""
        if not _receives(stream):
            return
        lane = _lane(stream)
        while lane.progress.scored and _receives(stream):
            token, row = lane.progress.scored.popleft()
            lane.text.expect(token.text)
            stream.answered += 1
            lane.conversation.answer.append(token.id)
            self._clear(job, stream, token.id, None, row)
            if _receives(stream) and self._is_due(stream):
                stream.phase = Held(self._ask_for(stream), in_prompt=False)
        if _receives(stream) and (ended := lane.intake.ended) is not None:
            self._close(job, stream, ended)

    def _let_out(self, job: Job, stream: Stream, out: Outflow) -> None:
        """Let text out. With a hold a step leaves as a whole, and nothing of it if a token is flagged."""
        lane = stream.lane
        if isinstance(lane, GivenLane) and lane.intake.holds:
            progress = lane.progress
            progress.cleared.append(out)
            if progress.scored:
                return
            text = "".join(one.text for one in progress.cleared)
            out = Outflow(text, tuple(token for one in progress.cleared for token in one.tokens), out.stopped)
            progress.cleared.clear()
        super()._let_out(job, stream, out)

    def _continue(self, job: Job, stream: Stream, phase: Any) -> None:  # noqa: ANN401 - as declared above it
        match phase:
            case Held(in_prompt=True):
                self._begin_given(job)
            case Held():
                stream.phase = Receiving()
                self._go_on(job, stream)
                _tell_if_caught_up(job, stream)
            case _:
                super()._continue(job, stream, phase)


def own_stepper(
    backbone: Backbone, scoring: Scoring | None, options: EngineOptions, wiring: Wiring
) -> GivenStepper:
    """Make the stepper that runs the model in this process."""
    width = options.max_streams
    kv_tokens = options.kv_tokens or default_kv_tokens(backbone.context_length, width)
    pool = SessionPool(backbone, kv_tokens, streams=width)
    return GivenStepper(backbone, scoring, pool, wiring, width=width)


def _conversation(job: Job) -> Conversation:
    return Conversation(job.rendered, ENDLESS)


def _bulk(job: Job, stream: Stream) -> int:
    """Return how many tokens of the prompt, or of an older window, the stream has still to read."""
    progress = _lane(stream).progress
    if progress.again:
        return progress.again
    return len(job.prompt) - progress.position if isinstance(stream.phase, ReadingPrompt) else 0


def _receives(stream: Stream) -> bool:
    return isinstance(stream.phase, Receiving) and not stream.done


def _tell_if_caught_up(job: Job, stream: Stream) -> None:
    if _receives(stream) and not (intake := _lane(stream).intake).is_waiting:
        job.caught_up(stream.choice, intake.characters)


def _lane(stream: Stream) -> GivenLane:
    lane = stream.opened
    if not isinstance(lane, GivenLane):
        raise ScoringFault("a stream of another kind")
    return lane
