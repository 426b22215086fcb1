"""One step of the engine: feed, score, clear, sample. It runs only on the engine's thread."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Feed, Session, SessionPool, banned_ids
from lockgate.gateway._jobs import Job, Lane, Stream
from lockgate.gateway._phases import (
    AwaitingPrompt,
    AwaitingVerdict,
    Closing,
    Decoding,
    ReadingPrompt,
    ticket_of,
)
from lockgate.gateway._records import Ending
from lockgate.gateway._sampling import Sample, Sampler, stream_seed
from lockgate.gateway._scheduler import share_prefill
from lockgate.gateway._scoring import Scoring, ScoringTap, to_host
from lockgate.gateway._stream import AnswerGate, AnswerText, Outflow
from lockgate.gateway._verdicts import Ticket
from lockgate.guards import Conversation

logger = logging.getLogger("lockgate.gateway")


class ScoringFault(Exception):
    """The guard gave no usable score."""


class VerdictFault(ScoringFault):
    """The second stage gave no usable verdict."""


@dataclass(frozen=True, slots=True)
class Portion:
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


class Stepper:
    """The part of the engine that advances streams through the backbone.

    Args:
        emit: called with the text and tokens that a stream releases.
        end: called once when a stream is over.
        ask: asks for the verdict on the first tokens of a conversation. `resume` takes the ticket back.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: SessionPool,
        scoring: Scoring | None,
        *,
        enforce: bool,
        emit: Callable[[Job, Stream, Outflow], None],
        end: Callable[[Job, Stream, Ending], None],
        ask: Callable[[Conversation, int], Ticket],
    ) -> None:
        self._backbone = backbone
        self._pool = pool
        self._scoring = scoring
        self._enforce = enforce
        self._emit = emit
        self._end = end
        self._ask = ask
        unused = range(len(backbone.tokenizer), backbone.vocab_size)
        banned = banned_ids(backbone.control_ids, backbone.eos_ids) | frozenset(unused)
        self._banned = np.array(sorted(banned), dtype=np.int64)

    def open(self, job: Job) -> None:
        """Reserve memory and set up the first choice. Raises PoolFull."""
        state = None if self._scoring is None else self._scoring.stages.new_state(job.regions)
        first = job.streams[0]
        gate = AnswerGate(state, self._text(job), enforce=self._enforce)
        self._equip(job, first, gate, lambda: self._pool.open(job.capacity, job.prefix))
        first.phase = ReadingPrompt()

    def plan(self, active: Sequence[Job]) -> list[Portion]:
        """Choose the portions of the next step: a token of each decoding stream, and shares of prompts."""
        portions = [
            Portion(job, stream, [stream.phase.pending.token_id], False, self._goes_on(job, stream))
            for job in active
            for stream in job.streams
            if isinstance(stream.phase, Decoding) and not stream.done
        ]
        firsts = [(job, job.streams[0]) for job in active]
        reading = [
            (job, first, first.opened.session.length)
            for job, first in firsts
            if isinstance(first.phase, ReadingPrompt) and not first.done
        ]
        shares = share_prefill([len(job.prompt) - start for job, _, start in reading])
        for (job, first, start), share in zip(reading, shares, strict=True):
            if share:
                end = start + share
                portions.append(Portion(job, first, job.prompt[start:end], True, end == len(job.prompt)))
        return portions

    def run(self, portions: Sequence[Portion]) -> None:
        """Take one packed step. A portion that fails ends only its own stream."""
        for portion, found in zip(portions, self._read(portions), strict=True):
            if portion.stream.done:
                continue
            try:
                if isinstance(found, Exception):
                    raise found
                self._take(portion, found)
            except Exception as error:  # any fault must close the stream
                self._fail(portion.job, portion.stream, error, whole=portion.is_prompt)

    def resume(self, job: Job, stream: Stream, ticket: Ticket) -> None:
        """Continue or end the stream that waits for `ticket`, which has a verdict or an error."""
        if stream.done or ticket_of(stream.phase) is not ticket:
            return
        whole = isinstance(stream.phase, AwaitingPrompt)
        try:
            self._take_verdict(job, stream, ticket)
        except Exception as error:  # as in `run`
            self._fail(job, stream, error, whole=whole)

    def _take_verdict(self, job: Job, stream: Stream, ticket: Ticket) -> None:
        gate, phase = stream.opened.gate, stream.phase
        error = ticket.error
        if error is None and (ticket.logit is None or not math.isfinite(ticket.logit)):
            error = "the second stage gave no finite verdict"
        if error is None and ticket.logit is not None:
            out = gate.judge(ticket.logit)
        elif self._enforce:
            raise VerdictFault(error)
        else:
            out = gate.give_up(error or "")
        stream.note_flag()
        if gate.halted:
            self._halt(job, stream, whole=isinstance(phase, AwaitingPrompt))
            return
        self._let_out(job, stream, out)
        if out.stopped:
            self._end(job, stream, Ending("stop"))
            return
        match phase:
            case AwaitingPrompt():
                self._begin(job, phase.logits)
            case AwaitingVerdict():
                stream.phase = Decoding(phase.pending)
            case Closing():
                self._close(job, stream, phase.reason)

    def _halt(self, job: Job, stream: Stream, *, whole: bool) -> None:
        """End a flagged stream. A flagged prompt (`whole`) ends all choices."""
        for choice in job.streams if whole else [stream]:
            if whole:
                choice.state, choice.flagged_at = stream.state, 0
            self._end(job, choice, Ending("stop"))

    def _is_due(self, stream: Stream) -> bool:
        """Tell whether the stream must wait for the second stage."""
        return not stream.done and stream.opened.gate.due

    def _ask_for(self, stream: Stream) -> Ticket:
        conversation = stream.opened.conversation
        return self._ask(conversation, conversation.chat.answer_start + len(conversation.answer))

    def _goes_on(self, job: Job, stream: Stream) -> bool:
        # Without a guard a token counts once it is sampled; with a guard, once it is consumed.
        return self._scoring is None or stream.answered + 1 < job.max_tokens

    def _read(self, portions: Sequence[Portion]) -> list[Found | Exception]:
        tap = None if self._scoring is None else self._scoring.tap
        before = [_length(portion) for portion in portions]
        try:
            return list(self._step(portions, tap))
        except Exception as error:
            if [_length(portion) for portion in portions] != before:
                # Some sessions have advanced, so their tokens can't be read again, and the results are lost.
                return [error] * len(portions)
            if len(portions) == 1:
                return [error] if tap is None or self._enforce else self._read_unscored(portions)
            logger.warning(
                "a packed step failed (%s); its streams are stepped one by one", type(error).__name__
            )
        # No session has advanced, so each stream can be read again alone.
        found: list[Found | Exception] = []
        for portion in portions:
            found.extend([RuntimeError("stream is over")] if portion.stream.done else self._read([portion]))
        return found

    def _read_unscored(self, portions: Sequence[Portion]) -> list[Found | Exception]:
        """Read without the guard: in shadow mode a guard that fails must not stop an answer."""
        try:
            return list(self._step(portions, None))
        except Exception as error:
            return [error]

    def _step(self, portions: Sequence[Portion], tap: ScoringTap | None) -> list[Found]:
        feeds = []
        for portion in portions:
            feeds.append(Feed(portion.stream.opened.session, portion.token_ids, portion.want_logits))
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

    def _take(self, portion: Portion, found: Found) -> None:
        match portion.stream.phase:
            case ReadingPrompt():
                self._take_prompt(portion, found)
            case Decoding(pending=pending):
                self._take_answer(portion, found, pending)
            case phase:
                raise RuntimeError(f"a stream that is {type(phase).__name__} was stepped")

    def _take_prompt(self, portion: Portion, found: Found) -> None:
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
            gate = AnswerGate(job.fork_state(), self._text(job), enforce=self._enforce)
            gate.broken, gate.fault = first.opened.gate.broken, first.opened.gate.fault
            self._equip(job, stream, gate, lambda: first.opened.session.fork(job.capacity))

    def _take_answer(self, portion: Portion, found: Found, pending: Sample) -> None:
        job, stream = portion.job, portion.stream
        if self._scoring is not None:
            stream.answered += 1
            stream.opened.conversation.answer.extend(portion.token_ids)
            self._clear(job, stream, pending, self._usable(stream.opened.gate, found.scores, 1))
        if isinstance(stream.phase, Decoding) and not stream.done and found.next_logits is not None:
            self._sample(job, stream, found.next_logits)
        self._hold_if_due(stream)

    def _hold_if_due(self, stream: Stream) -> None:
        """At the end of a block, let the next token wait for the verdict."""
        match stream.phase:
            case Decoding(pending=pending) if self._is_due(stream):
                stream.phase = AwaitingVerdict(self._ask_for(stream), pending)

    def _sample(self, job: Job, stream: Stream, logits: NDArray[np.float32]) -> None:
        sample = stream.opened.sampler.sample(logits)
        if sample.token_id in self._backbone.eos_ids:
            self._close(job, stream, "stop")
            return
        stream.phase = Decoding(sample)
        if self._scoring is None:
            stream.answered += 1
            self._clear(job, stream, sample, None)

    def _clear(self, job: Job, stream: Stream, sample: Sample, scores: NDArray[np.float32] | None) -> None:
        """Release what a consumed and scored token allows, and end the stream if it is over."""
        gate = stream.opened.gate
        out = gate.clear(sample.token_id, sample.logprob, scores)
        stream.note_flag()
        if gate.halted:
            self._end(job, stream, Ending("stop"))
            return
        self._let_out(job, stream, out)
        if out.stopped:
            self._end(job, stream, Ending("stop"))
        elif stream.answered >= job.max_tokens:
            self._close(job, stream, "length")

    def _close(self, job: Job, stream: Stream, reason: str) -> None:
        gate = stream.opened.gate
        out = gate.finish()
        stream.note_flag()
        if self._is_due(stream):
            stream.phase = Closing(self._ask_for(stream), reason)
            return
        if not gate.halted:
            self._let_out(job, stream, out)
        self._end(job, stream, Ending("stop" if out.stopped else reason))

    def _let_out(self, job: Job, stream: Stream, out: Outflow) -> None:
        if out.text or out.tokens:
            if stream.first_token is None:
                stream.first_token = time.monotonic()
            self._emit(job, stream, out)

    def _usable(
        self, gate: AnswerGate, scores: NDArray[np.float32] | None, tokens: int
    ) -> NDArray[np.float32] | None:
        """Return complete and finite scores. Otherwise enforce mode raises, and shadow mode notes it."""
        if scores is not None and len(scores) == tokens and bool(np.isfinite(scores).all()):
            return scores
        if self._enforce:
            raise ScoringFault("the guard gave no finite score")
        gate.broken = gate.broken or "the guard gave no finite score"
        return None

    def _fail(self, job: Job, stream: Stream, error: Exception, *, whole: bool) -> None:
        """End a stream because of a fault. A fault in the prompt (`whole`) ends all choices."""
        logger.error("stream %s/%d stopped: %s", job.id, stream.choice, type(error).__name__)
        reason = str(error) if isinstance(error, ScoringFault) else type(error).__name__
        ending = Ending(
            "content_filter", reason, "second stage" if isinstance(error, VerdictFault) else "scoring"
        )
        for choice in job.streams if whole else [stream]:
            if choice.lane is not None:
                choice.lane.gate.shut()
            if not choice.done:
                self._end(job, choice, ending)

    def _text(self, job: Job) -> AnswerText:
        return AnswerText(self._backbone.decode, job.stops)

    def _equip(self, job: Job, stream: Stream, gate: AnswerGate, reserve: Callable[[], Session]) -> None:
        """Set up a stream's lane. Reserve memory last, so that an earlier fault leaves none behind."""
        seed = stream_seed(job.seed_basis, job.sampling.seed, stream.choice)
        sampler = Sampler(job.sampling, seed, self._banned)
        conversation = Conversation(job.rendered, job.capacity)
        stream.lane = Lane(reserve(), gate, sampler, conversation)
        stream.state = gate.state


def _length(portion: Portion) -> int:
    return portion.stream.opened.session.length
