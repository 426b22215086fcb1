"""The steps of a model in this process: feed, score, clear, sample."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Feed, RenderedChat, Session, SessionPool, banned_ids
from lockgate.gateway._admission import Turns
from lockgate.gateway._jobs import Job, Lane, Stream
from lockgate.gateway._phases import AwaitingPrompt, AwaitingVerdict, Decoding, ReadingPrompt
from lockgate.gateway._sampling import Sample, Sampler, stream_seed
from lockgate.gateway._scheduler import share_between_clients
from lockgate.gateway._scoring import Scoring, ScoringTap, to_host
from lockgate.gateway._stepper import Stepper, Wiring
from lockgate.gateway._stream import AnswerGate
from lockgate.guards import Conversation

logger = logging.getLogger("lockgate.gateway")


@dataclass(frozen=True, slots=True, eq=False)
class SessionLane(Lane):
    """A lane with its memory in this process."""

    session: Session

    def close(self) -> None:
        """Free the session."""
        self.session.close()


@dataclass(frozen=True, slots=True, eq=False)
class PackedLane(SessionLane):
    """A lane whose answer the model writes, with its sampler."""

    sampler: Sampler


@dataclass(frozen=True, slots=True)
class PackedPortion:
    """What one stream feeds into a step."""

    job: Job
    stream: Stream
    token_ids: Sequence[int]
    is_prompt: bool
    want_logits: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a step for one portion: next-token logits if wanted, and the guard's logits."""

    next_logits: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None


class PackedStepper(Stepper[PackedPortion]):
    """The stepper that runs the backbone itself. Up to `width` streams advance in one packed pass.

    Args:
        scoring: the guard, or None.
        pool: the streams' memory. It is closed with the stepper.
        width: streams that a step advances at most. If more are open, they take turns.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring | None,
        pool: SessionPool,
        wiring: Wiring,
        *,
        width: int,
    ) -> None:
        super().__init__(backbone.decode, wiring)
        self._backbone = backbone
        self._pool = pool
        self._turns = Turns(width)
        self._scoring = scoring
        self._tap = None if scoring is None else scoring.tap
        unused = range(len(backbone.tokenizer), backbone.vocab_size)
        banned = banned_ids(backbone.control_ids, backbone.eos_ids) | frozenset(unused)
        self._banned = np.array(sorted(banned), dtype=np.int64)

    @property
    def kv_tokens(self) -> int:
        """Key-value tokens for all open streams together."""
        return self._pool.kv_budget_tokens

    @property
    def kv_used_tokens(self) -> int:
        """Key-value tokens that open streams have reserved."""
        return self._pool.kv_used_tokens

    @property
    def takes_guards(self) -> bool:
        """Whether there is a guard in whose place another one can step."""
        return self._scoring is not None

    def take_guard(self, scoring: Scoring) -> None:
        """Let another guard judge streams from now on. None is open."""
        self._scoring, self._tap = scoring, scoring.tap

    def warm(self, chat: RenderedChat) -> None:
        """Read a prompt, because the first step is slow."""
        session = self._pool.open(len(chat.token_ids), chat.token_ids[: chat.prefix_length])
        self._pool.step([Feed(session, chat.token_ids[chat.prefix_length :], want_logits=True)], self._tap)
        session.close()

    def close(self) -> None:
        """Free all memory."""
        self._pool.close()

    def open(self, job: Job) -> None:
        """Reserve memory and set up the first choice. Raises PoolFull."""
        state = None if self._scoring is None else self._scoring.stages.new_state(job.regions, job.lowered)
        first = job.streams[0]
        gate = job.gate(state, self._text(job))
        self._equip(job, first, gate, lambda: self._pool.open(job.capacity, job.prefix))
        first.phase = ReadingPrompt()

    def plan(self, active: Sequence[Job]) -> list[PackedPortion]:
        """Choose the portions of the next step: a token of each decoding stream, and shares of prompts."""
        runnable = [
            (job, stream)
            for job in active
            for stream in job.streams
            if not stream.done and self._is_runnable(stream)
        ]
        return self._portions(self._turns.take(runnable))

    def _is_runnable(self, stream: Stream) -> bool:
        return isinstance(stream.phase, Decoding | ReadingPrompt)

    def _portions(self, chosen: Sequence[tuple[Job, Stream]]) -> list[PackedPortion]:
        portions = [
            PackedPortion(job, stream, [stream.phase.pending.token_id], False, self._goes_on(job, stream))
            for job, stream in chosen
            if isinstance(stream.phase, Decoding)
        ]
        reading = [
            (job, first, _lane(first).session.length)
            for job, first in chosen
            if isinstance(first.phase, ReadingPrompt)
        ]
        shares = share_between_clients(
            [job.client for job, _, _ in reading], [len(job.prompt) - start for job, _, start in reading]
        )
        for (job, first, start), share in zip(reading, shares, strict=True):
            if share:
                end = start + share
                portions.append(
                    PackedPortion(job, first, job.prompt[start:end], True, end == len(job.prompt))
                )
        return portions

    def run(self, portions: Sequence[PackedPortion]) -> None:
        """Take one packed step. A portion that fails ends only its own stream."""
        self._take_all(portions, self._read(portions))

    def _take_all(self, portions: Sequence[PackedPortion], results: Sequence[Found | Exception]) -> None:
        """Take what was read for each portion. A fault ends only its own stream."""
        for portion, found in zip(portions, results, strict=True):
            if portion.stream.done:
                continue
            try:
                if isinstance(found, Exception):
                    raise found
                self._take(portion, found)
            except Exception as error:  # any fault must close the stream
                self._fail(portion.job, portion.stream, error, whole=portion.is_prompt)

    def _continue(self, job: Job, stream: Stream, phase: Any) -> None:  # noqa: ANN401 - as declared above it
        match phase:
            case AwaitingPrompt():
                self._begin(job, phase.logits)
            case AwaitingVerdict():
                stream.phase = Decoding(phase.pending)

    def _goes_on(self, job: Job, stream: Stream) -> bool:
        # Without a guard a token counts once it is sampled; with a guard, once it is consumed.
        return self._scoring is None or stream.answered + 1 < job.max_tokens

    def _read(self, portions: Sequence[PackedPortion]) -> list[Found | Exception]:
        tap = self._tap
        before = [_length(portion) for portion in portions]
        try:
            return list(self._step(portions, tap))
        except Exception as error:
            if [_length(portion) for portion in portions] != before:
                # Some sessions have advanced, so their tokens can't be read again, and the results are lost.
                return [error] * len(portions)
            if len(portions) == 1:
                tolerant = tap is not None and portions[0].stream.opened.gate.tolerant
                return self._read_unscored(portions) if tolerant else [error]
            logger.warning(
                "a packed step failed (%s); its streams are stepped one by one", type(error).__name__
            )
        # No session has advanced, so each stream can be read again alone.
        found: list[Found | Exception] = []
        for portion in portions:
            found.extend([RuntimeError("stream is over")] if portion.stream.done else self._read([portion]))
        return found

    def _read_unscored(self, portions: Sequence[PackedPortion]) -> list[Found | Exception]:
        """Read without the guard, where a guard that fails must not stop an answer."""
        try:
            return list(self._step(portions, None))
        except Exception as error:
            return [error]

    def _step(self, portions: Sequence[PackedPortion], tap: ScoringTap | None) -> list[Found]:
        feeds = []
        for portion in portions:
            feeds.append(Feed(session_of(portion.stream), portion.token_ids, portion.want_logits))
        logits = self._pool.step(feeds, tap)
        wanted = [row for row in logits if row is not None]
        fetched = to_host([*wanted, *(() if tap is None else (tap.logits,))])
        rows = iter(fetched)
        scores = None if tap is None else fetched[-1]
        found, start = [], 0
        for portion, row in zip(portions, logits, strict=True):
            end = start + len(portion.token_ids)
            share = None if scores is None else scores[start:end]
            found.append(Found(None if row is None else next(rows), share))
            start = end
        return found

    def _take(self, portion: PackedPortion, found: Found) -> None:
        match portion.stream.phase:
            case ReadingPrompt():
                self._take_prompt(portion, found)
            case Decoding(pending=pending):
                self._take_answer(portion, found, pending)
            case phase:
                raise RuntimeError(f"a stream that is {type(phase).__name__} was stepped")

    def _take_prompt(self, portion: PackedPortion, found: Found) -> None:
        job, stream = portion.job, portion.stream
        gate = stream.opened.gate
        if self._scoring is not None:
            scores = self._usable(gate, found.scores, len(portion.token_ids))
            if scores is not None:
                gate.read_prompt(scores)
            stream.note_flag()
            if gate.halted:
                self._halt(job, stream, whole=True)
                return
        if found.next_logits is None:
            return
        if self._is_due(stream):
            stream.phase = AwaitingPrompt(self._ask_for(stream), found.next_logits)
            return
        self._begin(job, found.next_logits)

    def _begin(self, job: Job, logits: NDArray[np.float32]) -> None:
        """Sample the first token of every choice, after the prompt was read and cleared."""
        job.trace.read()
        self._fork(job)
        for choice in job.streams:
            try:
                self._sample(job, choice, logits)
            except Exception as error:
                self._fail(job, choice, error, whole=False)

    def _fork(self, job: Job) -> None:
        first = job.streams[0]
        for stream in job.streams[1:]:
            stream.flagged_at = first.flagged_at
            gate = job.gate(job.fork_state(), self._text(job))
            gate.broken, gate.fault = first.opened.gate.broken, first.opened.gate.fault
            self._equip(job, stream, gate, lambda: _lane(first).session.fork(job.capacity))

    def _take_answer(self, portion: PackedPortion, found: Found, pending: Sample) -> None:
        job, stream = portion.job, portion.stream
        if self._scoring is not None:
            stream.answered += 1
            stream.opened.conversation.answer.extend(portion.token_ids)
            scores = self._usable(stream.opened.gate, found.scores, 1)
            self._clear(job, stream, pending.token_id, pending.logprob, scores)
        if isinstance(stream.phase, Decoding) and not stream.done and found.next_logits is not None:
            self._sample(job, stream, found.next_logits)
        self._hold_if_due(stream)

    def _hold_if_due(self, stream: Stream) -> None:
        """At the end of a block, let the next token wait for the verdict."""
        match stream.phase:
            case Decoding(pending=pending) if self._is_due(stream):
                stream.phase = AwaitingVerdict(self._ask_for(stream), pending)

    def _sample(self, job: Job, stream: Stream, logits: NDArray[np.float32]) -> None:
        sample = _lane(stream).sampler.sample(logits)
        if sample.token_id in self._backbone.eos_ids:
            self._close(job, stream, "stop")
            return
        stream.phase = Decoding(sample)
        if self._scoring is None:
            stream.answered += 1
            self._clear(job, stream, sample.token_id, sample.logprob, None)

    def _equip(self, job: Job, stream: Stream, gate: AnswerGate, reserve: Callable[[], Session]) -> None:
        """Set up a stream's lane. Reserve memory last, so that an earlier fault leaves none behind."""
        seed = stream_seed(job.seed_basis, job.sampling.seed, stream.choice)
        sampler = Sampler(job.sampling, seed, self._banned)
        conversation = Conversation(job.rendered, job.capacity)
        stream.lane = PackedLane(gate, conversation, reserve(), sampler)
        stream.state = gate.state


def _lane(stream: Stream) -> PackedLane:
    lane = stream.opened
    if not isinstance(lane, PackedLane):
        raise RuntimeError("a stream of another engine")
    return lane


def session_of(stream: Stream) -> Session:
    """Return the session of an open stream of this process."""
    lane = stream.opened
    if not isinstance(lane, SessionLane):
        raise RuntimeError("a stream of another engine")
    return lane.session


def _length(portion: PackedPortion) -> int:
    return session_of(portion.stream).length
