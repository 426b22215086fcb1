"""The second stage beside the engine: one thread gives the verdicts that streams wait for.

The engine's thread never waits for the second stage. A stream whose verdict is due takes part in no step
until its ticket comes back. All other streams go on.
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

# A long prompt is read in pieces, so that other verdicts don't wait for all of it.
TOKENS_PER_PIECE = 256
ENDED = "the second stage's thread has ended"


@dataclass(slots=True, eq=False)
class Ticket(Ask):
    """A verdict that a stream waits for.

    `logit` or `error` is set when the ticket comes back.

    Attributes:
        asked: when the verdict was asked for, in monotonic seconds.
        progressed: when the second stage last made progress since then, in monotonic seconds.
        unread: conversation tokens that the second stage must still read, as known when it was asked.
        in_pieces: whether the second stage reads them in pieces, and so shows progress.
        dropped: whether nobody waits for the verdict any more.
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
        """Return the time after which the verdict is too late.

        It is `timeout` seconds after the last progress. In all, a ticket gets `timeout` seconds, plus as many
        for every step of tokens that must be read. A stage that shows no progress gets all of that at once.
        """
        limit = self.asked + timeout * (1 + self.unread / TOKENS_PER_STEP)
        return min(self.progressed + timeout, limit) if self.in_pieces else limit


class VerdictWorker:
    """A thread that gives verdicts. Any thread may call `ask`, `forget` and `close`.

    The scheduler decides which tickets share a step. A stream has at most one open ticket and loses it when
    it ends. So there are never more waiting tickets than open streams.

    Args:
        deliver: called on the worker's thread with each ticket that has its verdict or error.
    """

    def __init__(self, source: VerdictSource, deliver: Callable[[Ticket], None]) -> None:
        self._scheduler = VerdictScheduler(source, step_tokens=TOKENS_PER_STEP, piece_tokens=TOKENS_PER_PIECE)
        self._in_pieces = source.reads_in_pieces
        self._deliver = deliver
        self._wake = threading.Condition()
        self._waiting: list[Ticket] = []
        self._batch: list[Ticket] = []  # tickets that the running step may open sessions for
        self._left: list[Conversation] = []
        self._closing = False
        self._ended = False  # no verdict can be given any more
        self._thread = threading.Thread(target=self._run, name="lockgate-verdicts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def warm(self, chat: RenderedChat) -> float:
        """Give one verdict on a prompt before the thread starts, because the first one is slow."""
        conversation = Conversation(chat, len(chat.token_ids))
        with torch.inference_mode():
            try:
                return self._scheduler.verdict_on(Ask(conversation, chat.answer_start))
            finally:
                self._scheduler.forget(conversation)

    def ask(self, ticket: Ticket) -> None:
        """Queue a ticket. If the thread has ended, the ticket comes back at once with an error."""
        ticket.unread = ticket.end - self._scheduler.holds(ticket.conversation)
        ticket.in_pieces = self._in_pieces
        with self._wake:
            self._waiting.append(ticket)
            self._wake.notify()
            ended = self._ended
        if ended:
            self._return(ticket, error=ENDED)

    def forget(self, conversation: Conversation) -> None:
        """Drop the ticket of a stream that is over. Free its memory as soon as the thread is free."""
        with self._wake:
            own = [ticket for ticket in self._waiting if ticket.conversation is conversation]
            for ticket in own:
                ticket.dropped = True
                self._waiting.remove(ticket)
            # A thread that hangs never empties this list. So add only conversations that hold memory.
            read = any(ticket.conversation is conversation for ticket in self._batch)
            if read or self._scheduler.holds(conversation):
                self._left.append(conversation)
                self._wake.notify()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the thread. A step that hangs is left alone; its thread ends with the process."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        else:
            self._scheduler.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    @property
    def oldest(self) -> float:
        """Seconds since the oldest open verdict was asked for; 0 if there is none."""
        with self._wake:
            asked = [ticket.asked for ticket in (*self._waiting, *self._batch)]
        return time.monotonic() - min(asked) if asked else 0.0

    @property
    def waiting(self) -> int:
        """Number of tickets without a verdict."""
        return sum(not ticket.dropped for ticket in tuple(self._waiting))

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._step():
                    pass
        finally:
            self._end()

    def _end(self) -> None:
        """Return all waiting tickets with an error when the thread ends, so that no stream waits."""
        with self._wake:
            self._ended = True
            left = [] if self._closing else list(self._waiting)
        for ticket in left:
            self._return(ticket, error=ENDED)
        self._scheduler.close()

    def _step(self) -> bool:
        """Take one packed step. Return False when the thread must end."""
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
        except Exception as error:  # the thread must survive any fault, and no stream may be left waiting
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
                ticket.unread = ticket.end  # its session is gone, so all is read again
        found = self._scheduler.step(batch)
        if any(given.error is None for given in found):
            self._note_progress()
        for given in found:
            if given.over:
                self._return(given.ask, logit=given.logit, error=_reason(given.error))

    def _note_progress(self) -> None:
        """Note progress for all waiting tickets. They are late if the stage hangs, not if it reads others."""
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
    """Name the reason for a missing verdict, without the text of the error."""
    if isinstance(error, PoolFull):
        return "no memory for the second stage"
    return None if error is None else type(error).__name__
