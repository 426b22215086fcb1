"""The second stage at work beside the engine: one thread that gives the verdicts that streams wait for.

The engine's thread never waits for it. A stream whose verdict is due is left out of the next steps until its
ticket comes back; all others go on.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lockgate.backbones import RenderedChat
from lockgate.errors import PoolFull
from lockgate.guards import TOKENS_PER_STEP, Ask, Conversation, VerdictScheduler, VerdictSource

logger = logging.getLogger("lockgate.gateway")

# A long prompt is read in pieces, so that other verdicts need not wait for all of it.
TOKENS_PER_PIECE = 256
ENDED = "the second stage's thread has ended"


@dataclass(slots=True, eq=False)
class Ticket(Ask):
    """A verdict that a stream waits for.

    `logit` or `error` is set when it comes back. A dropped one is given no verdict any more.

    Attributes:
        asked, progressed: when it was asked for, and when the second stage last came forward meanwhile
            (monotonic seconds).
        unread: conversation tokens that it has to read, known once it is asked for.
        in_pieces: whether reading them comes forward in steps.
    """

    asked: float = field(default_factory=time.monotonic)
    progressed: float = 0.0
    unread: int = 0
    in_pieces: bool = True
    dropped: bool = False
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


class VerdictWorker:
    """Gives verdicts on a thread of its own. `ask`, `forget` and `close` may be called from any thread.

    Which of them go into a step together, the scheduler decides. A stream has one open ticket at a time and
    loses it when it ends, so no more tickets wait than streams are open.

    Args:
        deliver: called on the worker's thread with each ticket that has its verdict or its error.
    """

    def __init__(self, source: VerdictSource, deliver: Callable[[Ticket], None]) -> None:
        self._scheduler = VerdictScheduler(source, step_tokens=TOKENS_PER_STEP, piece_tokens=TOKENS_PER_PIECE)
        self._in_pieces = source.reads_in_pieces
        self._deliver = deliver
        self._wake = threading.Condition()
        self._waiting: list[Ticket] = []
        self._batch: list[Ticket] = []  # those that the running step may open sessions for
        self._left: list[Conversation] = []
        self._closing = False
        self._ended = False  # no verdict can be given any more
        self._thread = threading.Thread(target=self._run, name="lockgate-verdicts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def warm(self, chat: RenderedChat) -> float:
        """Give one verdict on a prompt before the thread starts, so that no stream pays for the first one."""
        conversation = Conversation(chat, len(chat.token_ids))
        with torch.inference_mode():
            try:
                return self._scheduler.verdict_on(Ask(conversation, chat.answer_start))
            finally:
                self._scheduler.forget(conversation)

    def ask(self, ticket: Ticket) -> None:
        ticket.unread = ticket.end - self._scheduler.holds(ticket.conversation)
        ticket.in_pieces = self._in_pieces
        with self._wake:
            self._waiting.append(ticket)
            self._wake.notify()
            ended = self._ended
        if ended:
            self._return(ticket, error=ENDED)

    def forget(self, conversation: Conversation) -> None:
        """Its stream is over: drop its ticket, and give its memory back as soon as the thread is free."""
        with self._wake:
            own = [ticket for ticket in self._waiting if ticket.conversation is conversation]
            for ticket in own:
                ticket.dropped = True
                self._waiting.remove(ticket)
            # A thread that hangs takes nothing from this list, so it holds only what has memory.
            read = any(ticket.conversation is conversation for ticket in self._batch)
            if read or self._scheduler.holds(conversation):
                self._left.append(conversation)
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
                while self._step():
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
        self._scheduler.close()

    def _step(self) -> bool:
        """One packed step. False when the thread is to end."""
        with self._wake:
            while not (self._closing or self._waiting or self._left):
                self._wake.wait()
            if self._closing:
                return False
            self._waiting = [ticket for ticket in self._waiting if not ticket.dropped]
            batch = self._batch = list(self._waiting)
            left, self._left = self._left, []
        try:
            for conversation in left:
                self._scheduler.forget(conversation)
            self._judge(batch)
        except Exception as error:  # it must outlive any fault, and no fault may leave streams waiting
            logger.exception("the second stage's thread met a fault")
            for ticket in batch:
                self._return(ticket, error=type(error).__name__)
        finally:
            with self._wake:
                self._batch = []
        return True

    def _judge(self, batch: list[Ticket]) -> None:
        for ticket in batch:
            if not self._scheduler.holds(ticket.conversation):
                ticket.unread = ticket.end  # also what an earlier session of it had read
        found = self._scheduler.step(batch)
        if any(given.error is None for given in found):
            self._note_progress()
        for given in found:
            if given.over:
                self._return(given.ask, logit=given.logit, error=_reason(given.error))

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


def _reason(error: Exception | None) -> str | None:
    """Why there is no verdict, without a word of what the error says."""
    if isinstance(error, PoolFull):
        return "no memory for the second stage"
    return None if error is None else type(error).__name__
