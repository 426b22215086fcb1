"""One step of the engine: feed, score, clear, sample. Runs on the engine's thread only."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Feed, SessionPool, banned_ids
from lockgate.gateway._jobs import Ending, Job, Scoring, ScoringTap, Stream
from lockgate.gateway._sampling import Sampler, stream_seed
from lockgate.gateway._scheduler import share_prefill
from lockgate.gateway._stream import AnswerGate, AnswerText, Outflow
from lockgate.gateway._verdicts import Ticket

logger = logging.getLogger("lockgate.gateway")


class ScoringFault(Exception):
    """The guard gave no usable score."""


class VerdictFault(ScoringFault):
    """The second stage gave no usable verdict."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one stream feeds into a step."""

    job: Job
    stream: Stream
    token_ids: Sequence[int]
    is_prompt: bool
    want_logits: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What a step says about one turn: next-token logits if wanted, the guard's logits of its tokens."""

    next_logits: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None


class Stepper:
    """Advances streams through the backbone.

    Args:
        emit: called with what a stream lets out.
        end: called once when a stream is over.
        ask: called with the ticket of a stream that must wait for the second stage; `resume` takes it back.
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
        ask: Callable[[Ticket], None],
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
        first = job.streams[0]
        first.session = self._pool.open(job.capacity, job.prefix)
        first.read = first.session.length
        state = None if self._scoring is None else self._scoring.new_state(job.regions)
        self._equip(job, first, AnswerGate(state, self._text(job), enforce=self._enforce))

    def plan(self, active: Sequence[Job]) -> list[Turn]:
        """One pending token of every decoding stream, and a fair share of the prompts."""
        turns = [
            Turn(job, stream, [stream.pending.token_id], False, self._goes_on(job, stream))
            for job in active
            for stream in job.streams
            if stream.pending is not None and not stream.done and stream.ticket is None
        ]
        reading = [job for job in active if not job.streams[0].done and job.streams[0].read < len(job.prompt)]
        shares = share_prefill([len(job.prompt) - job.streams[0].read for job in reading])
        for job, share in zip(reading, shares, strict=True):
            if share:
                start = job.streams[0].read
                ids = job.prompt[start : start + share]
                turns.append(Turn(job, job.streams[0], ids, True, start + share == len(job.prompt)))
        return turns

    def run(self, turns: Sequence[Turn]) -> None:
        """Take one packed step; a turn that fails ends its own stream, and no other."""
        for turn, reading in zip(turns, self._read(turns), strict=True):
            if turn.stream.done:
                continue
            try:
                if isinstance(reading, Exception):
                    raise reading
                self._take(turn, reading)
            except Exception as error:  # whatever goes wrong with a stream must close it
                self._fail(turn, error)

    def resume(self, ticket: Ticket) -> None:
        """A verdict is there, or can't be given: the stream that waits for it goes on or ends."""
        job, stream = ticket.job, ticket.stream
        if stream.ticket is not ticket or stream.done:
            return
        stream.ticket = None
        of_prompt = job.first_logits is not None
        try:
            self._take_verdict(job, stream, ticket)
        except Exception as error:  # as in `run`
            self._fail(Turn(job, stream, (), of_prompt, False), error)

    def _take_verdict(self, job: Job, stream: Stream, ticket: Ticket) -> None:
        gate = _gate(stream)
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
        logits, job.first_logits = job.first_logits, None
        if gate.halted:
            self._halt(job, stream, whole=logits is not None)
            return
        self._let_out(job, stream, out)
        if out.stopped:
            self._end(job, stream, Ending("stop"))
        elif stream.closing is not None:
            self._close(job, stream, stream.closing)
        elif logits is not None:
            self._begin(job, logits)

    def _halt(self, job: Job, stream: Stream, *, whole: bool) -> None:
        """End a flagged stream; a flagged prompt ends all choices."""
        for choice in job.streams if whole else [stream]:
            if whole:
                choice.gate, choice.flagged_at = stream.gate, 0
            self._end(job, choice, Ending("stop"))

    def _wait_if_due(self, job: Job, stream: Stream) -> bool:
        """Whether the stream must wait for the second stage; it is asked then."""
        if stream.done or not _gate(stream).due:
            return False
        if stream.ticket is None:
            ticket = Ticket(job, stream, job.rendered, len(stream.ids))
            stream.ticket, stream.asked = ticket, True
            self._ask(ticket)
        return True

    def _goes_on(self, job: Job, stream: Stream) -> bool:
        # Without a guard a token is counted when it is sampled, with one when it has been consumed.
        return self._scoring is None or stream.answered + 1 < job.max_tokens

    def _read(self, turns: Sequence[Turn]) -> list[Reading | Exception]:
        tap = None if self._scoring is None else self._scoring.tap
        before = [_length(turn) for turn in turns]
        try:
            return list(self._step(turns, tap))
        except Exception as error:
            if [_length(turn) for turn in turns] != before:
                # The tokens were read and can't be read again; what was to come of them is lost.
                return [error] * len(turns)
            if len(turns) == 1:
                return [error] if tap is None or self._enforce else self._read_unscored(turns)
            logger.warning(
                "a packed step failed (%s); its streams are stepped one by one", type(error).__name__
            )
        # No session has advanced, so each stream can be read again alone.
        readings: list[Reading | Exception] = []
        for turn in turns:
            readings.extend([RuntimeError("stream is over")] if turn.stream.done else self._read([turn]))
        return readings

    def _read_unscored(self, turns: Sequence[Turn]) -> list[Reading | Exception]:
        """In shadow mode a guard that fails must not stop an answer."""
        try:
            return list(self._step(turns, None))
        except Exception as error:
            return [error]

    def _step(self, turns: Sequence[Turn], tap: ScoringTap | None) -> list[Reading]:
        feeds = []
        for turn in turns:
            if turn.stream.session is None:
                raise RuntimeError("a stream without a session can't be stepped")
            feeds.append(Feed(turn.stream.session, turn.token_ids, turn.want_logits))
        logits = self._pool.step(feeds, tap)
        wanted = [row for row in logits if row is not None]
        rows = iter(torch.stack(wanted).cpu().numpy() if wanted else ())
        scores = None if tap is None else tap.logits.cpu().numpy()
        readings, start = [], 0
        for turn, row in zip(turns, logits, strict=True):
            end = start + len(turn.token_ids)
            share = None if scores is None else scores[start:end]
            readings.append(Reading(None if row is None else next(rows), share))
            start = end
        return readings

    def _take(self, turn: Turn, reading: Reading) -> None:
        if turn.is_prompt:
            self._take_prompt(turn, reading)
        else:
            self._take_answer(turn, reading)

    def _take_prompt(self, turn: Turn, reading: Reading) -> None:
        job, stream = turn.job, turn.stream
        stream.read += len(turn.token_ids)
        gate = _gate(stream)
        if self._scoring is not None:
            scores = self._usable(gate, reading.scores, len(turn.token_ids))
            if scores is not None:
                gate.read_prompt(scores)
            stream.note_flag()
            if gate.halted:
                self._halt(job, stream, whole=True)
                return
        if reading.next_logits is None:
            return
        if self._wait_if_due(job, stream):
            job.first_logits = reading.next_logits
            return
        self._begin(job, reading.next_logits)

    def _begin(self, job: Job, logits: NDArray[np.float32]) -> None:
        """The prompt has been read and cleared: every choice gets its first token."""
        self._fork(job)
        for choice in job.streams:
            try:
                self._sample(job, choice, logits)
            except Exception as error:
                self._fail(Turn(job, choice, (), False, False), error)

    def _fork(self, job: Job) -> None:
        first = job.streams[0]
        if first.session is None:
            raise RuntimeError("a stream without a session can't be forked")
        for stream in job.streams[1:]:
            stream.session = first.session.fork(job.capacity)
            stream.read = first.read
            stream.flagged_at = first.flagged_at
            gate = AnswerGate(job.fork_state(), self._text(job), enforce=self._enforce)
            gate.broken, gate.fault = _gate(first).broken, _gate(first).fault
            self._equip(job, stream, gate)

    def _take_answer(self, turn: Turn, reading: Reading) -> None:
        job, stream = turn.job, turn.stream
        if self._scoring is not None:
            gate = _gate(stream)
            stream.answered += 1
            if self._scoring.second_stage is not None:
                stream.ids.extend(turn.token_ids)
            self._clear(job, stream, self._usable(gate, reading.scores, 1))
        if not stream.done and reading.next_logits is not None:
            self._sample(job, stream, reading.next_logits)
        if self._scoring is not None:
            self._wait_if_due(job, stream)

    def _sample(self, job: Job, stream: Stream, logits: NDArray[np.float32]) -> None:
        if stream.sampler is None:
            raise RuntimeError("a stream without a sampler can't be sampled")
        sample = stream.sampler.sample(logits)
        if sample.token_id in self._backbone.eos_ids:
            stream.pending = None
            self._close(job, stream, "stop")
            return
        stream.pending = sample
        if self._scoring is None:
            stream.answered += 1
            self._clear(job, stream, None)

    def _clear(self, job: Job, stream: Stream, scores: NDArray[np.float32] | None) -> None:
        """The pending token has been consumed and scored: let out what may leave, end what is over."""
        gate, sample = _gate(stream), stream.pending
        if sample is None:
            raise RuntimeError("no token is pending")
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
        gate = _gate(stream)
        out = gate.finish()
        stream.note_flag()
        if self._wait_if_due(job, stream):
            stream.closing = reason
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
        """Scores that can be judged. Enforcing, anything else ends the stream; in shadow mode it is noted."""
        if scores is not None and len(scores) == tokens and bool(np.isfinite(scores).all()):
            return scores
        if self._enforce:
            raise ScoringFault("the guard gave no finite score")
        gate.broken = gate.broken or "the guard gave no finite score"
        return None

    def _fail(self, turn: Turn, error: Exception) -> None:
        logger.error("stream %s/%d stopped: %s", turn.job.id, turn.stream.choice, type(error).__name__)
        reason = str(error) if isinstance(error, ScoringFault) else type(error).__name__
        ending = Ending(
            "content_filter", reason, "second stage" if isinstance(error, VerdictFault) else "scoring"
        )
        streams = turn.job.streams if turn.is_prompt else [turn.stream]
        for stream in streams:
            if stream.gate is not None:
                stream.gate.shut()
            if not stream.done:
                self._end(turn.job, stream, ending)

    def _text(self, job: Job) -> AnswerText:
        return AnswerText(self._backbone.decode, job.stops)

    def _equip(self, job: Job, stream: Stream, gate: AnswerGate) -> None:
        seed = stream_seed(job.seed_basis, job.sampling.seed, stream.choice)
        stream.sampler = Sampler(job.sampling, seed, self._banned)
        stream.gate = gate


def _gate(stream: Stream) -> AnswerGate:
    if stream.gate is None:
        raise RuntimeError("a stream without a gate can't go on")
    return stream.gate


def _length(turn: Turn) -> int:
    return 0 if turn.stream.session is None else turn.stream.session.length
