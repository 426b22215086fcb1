"""The second stage at work beside the engine: one thread that gives the verdicts that streams wait for.

The engine's thread never waits for it. A stream whose verdict is due is left out of the next steps until its
ticket comes back; all others go on.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lockgate.backbones import RenderedChat
from lockgate.errors import PoolFull
from lockgate.gateway._jobs import Job, Stream
from lockgate.guards import VerdictSession, VerdictSource

logger = logging.getLogger("lockgate.gateway")

# A long prompt is read in pieces, so that other verdicts need not wait for all of it.
TOKENS_PER_PIECE = 256
TOKENS_PER_STEP = 1024
ENDED = "the second stage's thread has ended"


@dataclass(slots=True, eq=False)
class Ticket:
    """A verdict that a stream waits for: on its conversation up to `cut` tokens of the answer.

    `logit` or `error` is set when it comes back. A dropped one is given no verdict any more.

    Attributes:
        asked, progressed: when it was asked for, and when the second stage last came forward meanwhile
            (monotonic seconds).
        unread: conversation tokens that it has to read, known once it is asked for.
        in_pieces: whether reading them comes forward in steps.
    """

    job: Job
    stream: Stream
    chat: RenderedChat
    cut: int
    asked: float = field(default_factory=time.monotonic)
    progressed: float = 0.0
    unread: int = 0
    in_pieces: bool = True
    dropped: bool = False
    alone: bool = False  # a packed step with others has failed
    logit: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        self.progressed = self.asked

    def deadline(self, timeout: float) -> float:
        """When it is too late: `timeout` seconds after the last progress, but not for ever.

        What has much to read gets `timeout` seconds more for every full step of tokens, and no more.
        """
        limit = self.asked + timeout * (1 + self.unread / TOKENS_PER_STEP)
        return min(self.progressed + timeout, limit) if self.in_pieces else limit

    @property
    def end(self) -> int:
        """Conversation tokens that the verdict is on."""
        return len(self.job.prompt) + self.cut

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens `start:end` of the conversation."""
        prompt = self.job.prompt
        answer = self.stream.ids[max(0, start - len(prompt)) : max(0, end - len(prompt))]
        return [*prompt[start:end], *answer]


@dataclass(frozen=True, slots=True)
class _Ask:
    ticket: Ticket
    session: VerdictSession
    token_ids: list[int]
    last: bool


class VerdictWorker:
    """Gives verdicts on a thread of its own. `ask`, `forget` and `close` may be called from any thread.

    A stream has one open ticket at a time and loses it when it ends, so no more tickets wait than streams are
    open. Memory is the source's own; a stream keeps its session until it ends, unless another one that waits
    needs the room.

    Args:
        deliver: called on the worker's thread with each ticket that has its verdict or its error.
    """

    def __init__(self, source: VerdictSource, deliver: Callable[[Ticket], None]) -> None:
        self._source = source
        self._deliver = deliver
        self._wake = threading.Condition()
        self._waiting: list[Ticket] = []
        self._batch: list[Ticket] = []  # those that the running round may open sessions for
        self._left: list[Stream] = []
        self._closing = False
        self._ended = False  # no verdict can be given any more
        self._sessions: OrderedDict[Stream, VerdictSession] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="lockgate-verdicts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def warm(self, chat: RenderedChat) -> float:
        """Give one verdict on a prompt before the thread starts, so that no stream pays for the first one."""
        with torch.inference_mode():
            session = self._source.open(chat, len(chat.token_ids))
            try:
                return self._source.judge([(session, [])])[0]
            finally:
                session.close()

    def ask(self, ticket: Ticket) -> None:
        held = self._sessions.get(ticket.stream)
        ticket.unread = ticket.end - (0 if held is None else held.length)
        ticket.in_pieces = self._source.reads_in_pieces
        with self._wake:
            self._waiting.append(ticket)
            self._wake.notify()
            ended = self._ended
        if ended:
            self._return(ticket, error=ENDED)

    def forget(self, stream: Stream) -> None:
        """The stream is over: drop its ticket, and give its memory back as soon as the thread is free."""
        with self._wake:
            for ticket in self._waiting:
                ticket.dropped = ticket.dropped or ticket.stream is stream
            self._waiting = [ticket for ticket in self._waiting if ticket.stream is not stream]
            # A thread that hangs takes nothing from this list, so it holds only what has memory.
            if stream in self._sessions or any(ticket.stream is stream for ticket in self._batch):
                self._left.append(stream)
                self._wake.notify()

    def close(self, timeout: float = 10.0) -> None:
        """Stop. A step that does not come back is left behind; its thread ends with the process."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    @property
    def oldest(self) -> float:
        """Seconds since the oldest verdict was asked for that waits or is being given; 0 if there is none."""
        with self._wake:
            asked = [ticket.asked for ticket in (*self._waiting, *self._batch)]
        return time.monotonic() - min(asked) if asked else 0.0

    @property
    def waiting(self) -> int:
        """Tickets that have no verdict yet."""
        return sum(not ticket.dropped for ticket in tuple(self._waiting))

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._round():
                    pass
        finally:
            self._end()

    def _end(self) -> None:
        """Whatever the thread ends of, nobody is left to wait for it."""
        with self._wake:
            self._ended = True
            left = [] if self._closing else list(self._waiting)
        for ticket in left:
            self._return(ticket, error=ENDED)
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._source.close()

    def _round(self) -> bool:
        with self._wake:
            while not (self._closing or self._waiting or self._left):
                self._wake.wait()
            if self._closing:
                return False
            self._waiting = [ticket for ticket in self._waiting if not ticket.dropped]
            batch = self._batch = list(self._waiting)
            left, self._left = self._left, []
        try:
            for stream in left:
                self._drop(stream)
            self._judge(self._choose(batch))
        except (
            Exception
        ) as error:  # the thread must outlive any fault, and no fault may leave streams waiting
            logger.exception("the second stage's round failed")
            for ticket in batch:
                self._return(ticket, error=type(error).__name__)
        finally:
            with self._wake:
                self._batch = []
        return True

    def _choose(self, batch: Sequence[Ticket]) -> list[_Ask]:
        """As many of the oldest tickets as fit one step, each with its next piece; at least one."""
        asks: list[_Ask] = []
        room = TOKENS_PER_STEP
        for ticket in batch:
            if ticket.alone and asks:
                continue
            session = self._session(ticket, batch)
            if session is None:
                continue
            start = session.length
            end = min(ticket.end, start + TOKENS_PER_PIECE) if self._source.reads_in_pieces else ticket.end
            cost = session.cost(end - start)
            if asks and cost > room:
                continue
            asks.append(_Ask(ticket, session, ticket.tokens(start, end), end == ticket.end))
            room -= cost
            if ticket.alone:
                break
        return asks

    def _session(self, ticket: Ticket, batch: Sequence[Ticket]) -> VerdictSession | None:
        """The ticket's session, or None while there is no memory for it."""
        held = self._sessions.get(ticket.stream)
        if held is not None:
            self._sessions.move_to_end(ticket.stream)
            return held
        ticket.unread = ticket.end  # also what an earlier session of it had read
        chat = ticket.chat
        if self._source.reads_in_pieces:
            first = max(chat.prefix_length, min(chat.answer_start, TOKENS_PER_PIECE))
            chat = replace(chat, answer_start=first)
        in_use = {other.stream for other in batch}
        while True:
            try:
                session = self._source.open(chat, ticket.job.capacity)
            except PoolFull:
                idle = next((stream for stream in self._sessions if stream not in in_use), None)
                if idle is not None:
                    self._drop(idle)  # it reads its conversation again when it is suspicious again
                    continue
                if not self._sessions:
                    self._return(ticket, error="no memory for the second stage")
                return None
            except Exception as error:
                self._return(ticket, error=type(error).__name__)
                return None
            self._sessions[ticket.stream] = session
            return session

    def _judge(self, asks: Sequence[_Ask]) -> None:
        if not asks:
            return
        try:
            logits = self._source.judge([(ask.session, ask.token_ids) for ask in asks])
        except Exception as error:
            logger.warning("a verdict step failed (%s)", type(error).__name__)
            for ask in asks:
                # How far the sessions have read is unknown now.
                self._drop(ask.ticket.stream)
                ask.ticket.alone = True
                if len(asks) == 1:
                    self._return(ask.ticket, error=type(error).__name__)
            return
        self._note_progress()
        for ask, logit in zip(asks, logits, strict=True):
            if ask.last:
                self._return(ask.ticket, logit=logit)

    def _note_progress(self) -> None:
        """Also for those that have waited: they are late if nothing comes forward, not if others are read."""
        now = time.monotonic()
        with self._wake:
            for ticket in self._waiting:
                ticket.progressed = now

    def _return(self, ticket: Ticket, *, logit: float | None = None, error: str | None = None) -> None:
        with self._wake:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        if not ticket.dropped:
            ticket.logit, ticket.error = logit, error
            self._deliver(ticket)

    def _drop(self, stream: Stream) -> None:
        session = self._sessions.pop(stream, None)
        if session is not None:
            session.close()
