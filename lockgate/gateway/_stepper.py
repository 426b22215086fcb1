"""What every engine does with a stream: hold it for verdicts, release cleared text, end it, also at a fault.

How tokens are made and scored is the affair of a subclass: `PackedStepper` runs the model in this process,
`VllmStepper` takes tokens with their scores from vLLM. It all runs on the engine's thread.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import RenderedChat
from lockgate.errors import LockgateError
from lockgate.gateway._jobs import Job, Stream
from lockgate.gateway._phases import Closing, ticket_of, waits_in_prompt
from lockgate.gateway._records import Ending
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stream import AnswerGate, AnswerText, Outflow
from lockgate.gateway._verdicts import Ticket
from lockgate.guards import Conversation

logger = logging.getLogger("lockgate.gateway")

NO_SCORE = "the guard gave no finite score"


class ScoringFault(Exception):
    """The guard gave no usable score."""


class VerdictFault(ScoringFault):
    """The second stage gave no usable verdict."""


class ModelGone(LockgateError):
    """The process that runs the model has ended. No request can be answered any more."""


class Portion(Protocol):
    """A stream's part of a step."""

    @property
    def job(self) -> Job: ...

    @property
    def stream(self) -> Stream: ...


@dataclass(frozen=True, slots=True)
class Wiring:
    """The engine's functions that a stepper calls.

    Attributes:
        emit: takes the text and tokens that a stream releases.
        end: takes a stream that is over, once.
        ask: asks for the verdict on the first tokens of a conversation. `resume` takes the ticket back.
        tell: makes the engine plan again, because something has arrived. Any thread may call it.
    """

    emit: Callable[[Job, Stream, Outflow], None]
    end: Callable[[Job, Stream, Ending], None]
    ask: Callable[[Conversation, int], Ticket]
    tell: Callable[[], None] = lambda: None


_P = TypeVar("_P", bound=Portion)


class Stepper(ABC, Generic[_P]):
    """The part of the engine that advances streams.

    Args:
        decode: turns tokens into text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], wiring: Wiring) -> None:
        self._decode = decode
        self._emit = wiring.emit
        self._end = wiring.end
        self._ask = wiring.ask

    @property
    def gives_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return True

    @property
    def reads_given(self) -> bool:
        """Whether it reads answers that are written elsewhere (jobs with intakes)."""
        return False

    @property
    def takes_guards(self) -> bool:
        """Whether another guard can take over while it runs."""
        return False

    def take_guard(self, scoring: Scoring) -> None:
        """Let another guard of the same backbone judge streams from now on. None is open."""
        raise NotImplementedError("this stepper keeps its guard")

    @property
    def alive(self) -> bool:
        """Whether what runs the model still works. Any thread may ask."""
        return True

    @property
    @abstractmethod
    def kv_tokens(self) -> int:
        """Key-value tokens for all open streams together."""

    @property
    @abstractmethod
    def kv_used_tokens(self) -> int:
        """Key-value tokens that open streams have reserved."""

    @abstractmethod
    def warm(self, chat: RenderedChat) -> None:
        """Take a first step on a prompt before the engine starts, because the first step is slow."""

    @abstractmethod
    def open(self, job: Job) -> None:
        """Reserve memory and set up the first choice. Raises PoolFull."""

    @abstractmethod
    def plan(self, active: Sequence[Job]) -> list[_P]:
        """Choose what the next step advances. If nothing is chosen, no step is taken."""

    def due_at(self, active: Sequence[Job]) -> float | None:
        """Return when text that waits for more must be read, on the monotonic clock; None without such."""
        return None

    @abstractmethod
    def run(self, portions: Sequence[_P]) -> None:
        """Take one step. A portion that fails ends only its own stream."""

    @abstractmethod
    def close(self) -> None:
        """Free all memory. No step follows."""

    @abstractmethod
    def _continue(self, job: Job, stream: Stream, phase: Any) -> None:  # noqa: ANN401 - the subclass's phase
        """Go on with a stream that was held in `phase` and has been cleared by its verdict."""

    def resume(self, job: Job, stream: Stream, ticket: Ticket) -> None:
        """Continue or end the stream that waits for `ticket`, which has a verdict or an error."""
        if stream.done or ticket_of(stream.phase) is not ticket:
            return
        job.trace.judged(stream.choice, ticket.asked, given=ticket.error is None)
        whole = waits_in_prompt(stream.phase)
        try:
            self._take_verdict(job, stream, ticket)
        except Exception as error:  # any fault must close the stream
            self._fail(job, stream, error, whole=whole)

    def _take_verdict(self, job: Job, stream: Stream, ticket: Ticket) -> None:
        gate, phase = stream.opened.gate, stream.phase
        error = ticket.error
        if error is None and (ticket.logit is None or not math.isfinite(ticket.logit)):
            error = "the second stage gave no finite verdict"
        if error is None and ticket.logit is not None:
            out = gate.judge(ticket.logit)
        elif not gate.tolerant:
            raise VerdictFault(error)
        else:
            out = gate.give_up(error or "")
        stream.note_flag()
        if gate.halted:
            self._halt(job, stream, whole=waits_in_prompt(phase))
            return
        self._let_out(job, stream, out)
        if out.stopped:
            self._end(job, stream, Ending("stop"))
        elif isinstance(phase, Closing):
            self._close(job, stream, phase.reason)
        else:
            self._continue(job, stream, phase)

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

    def _clear(
        self,
        job: Job,
        stream: Stream,
        token_id: int,
        logprob: float | None,
        scores: NDArray[np.float32] | None,
    ) -> None:
        """Release what a scored token allows, and end the stream if it is over."""
        gate = stream.opened.gate
        out = gate.clear(token_id, logprob, scores)
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
        """Return complete and finite scores. A tolerant gate notes that there are none.

        Raises:
            ScoringFault: there are none, and the gate is not tolerant.
        """
        if scores is not None and len(scores) == tokens and bool(np.isfinite(scores).all()):
            return scores
        if not gate.tolerant:
            raise ScoringFault(NO_SCORE)
        gate.broken = gate.broken or NO_SCORE
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
        return AnswerText(self._decode, job.stops)


MakeStepper = Callable[[Wiring], Stepper[Any]]
