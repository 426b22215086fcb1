"""The engine's side of the second stage: it asks for verdicts, collects them and gives up late ones."""

import math
import time
from collections import deque
from collections.abc import Callable, Collection

from lockgate.backbones import RenderedChat
from lockgate.gateway._breaker import Breaker, BreakerOptions
from lockgate.gateway._options import EngineOptions, Faults
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._verdicts import Ticket, VerdictWorker
from lockgate.guards import Conversation, VerdictSource

TOO_LATE = "the second stage's verdict came too late"
DOWN = "the second stage has failed too often; it is not asked for a while"


class VerdictDesk:
    """The place where the engine asks for verdicts. Without a second stage it does nothing.

    Only the engine's thread calls the methods. Any thread may read the properties.

    Args:
        source: second stage, or None.
        timeout: seconds that a verdict may take, see `Ticket.deadline`.
        faults: record in which the desk notes faults of the second stage.
        tell: called on the worker's thread when a verdict arrives.
        breaker: when the second stage counts as down. Then no stream waits for it.
    """

    def __init__(
        self,
        source: VerdictSource | None,
        timeout: float,
        faults: Faults,
        tell: Callable[[], None],
        breaker: BreakerOptions | None = None,
        judged: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.timeout = timeout
        self._faults = faults
        self._tell = tell
        self._judged = judged
        self._arrived: deque[Ticket] = deque()
        self._breaker = Breaker(breaker or BreakerOptions())
        self._probe: Conversation | None = None
        self._worker = None if source is None else VerdictWorker(source, self._note)

    @classmethod
    def of(
        cls,
        scoring: Scoring | None,
        kv_tokens: int,
        options: EngineOptions,
        faults: Faults,
        tell: Callable[[], None],
        judged: Callable[[float], None],
    ) -> "VerdictDesk":
        """Open the second stage of a guard, with memory for `kv_tokens` tokens."""
        source = None if scoring is None else scoring.stages.open_verdicts(kv_tokens)
        return cls(source, options.verdict_timeout, faults, tell, options.verdict_breaker, judged)

    def start(self) -> None:
        """Start the second stage's thread."""
        if self._worker is not None:
            self._worker.start()

    def close(self, timeout: float) -> None:
        """Stop the second stage's thread. Wait for it at most `timeout` seconds."""
        if self._worker is not None:
            self._worker.close(timeout)

    def warm(self, chat: RenderedChat) -> None:
        """Judge one prompt before the start, because the first step is slow."""
        if not self.judges(chat):
            self._faults.open["second stage"] = "it gave no finite verdict"

    def judges(self, chat: RenderedChat) -> bool:
        """Judge one prompt before the start, and tell whether the verdict is usable."""
        return self._worker is None or math.isfinite(self._worker.warm(chat))

    def ask(self, conversation: Conversation, end: int) -> Ticket:
        """Ask for the verdict on the first `end` tokens of a conversation."""
        if self._worker is None:
            raise RuntimeError("a verdict is due, and there is no second stage")
        ticket = Ticket(conversation, end)
        is_probe = self._breaker.is_open
        if self._breaker.enter():
            if is_probe:
                self._probe = conversation
            self._worker.ask(ticket)
        else:
            ticket.dropped, ticket.error = True, DOWN
            self._note(ticket)
        return ticket

    def forget(self, conversation: Conversation) -> None:
        """Drop a conversation: its stream is over."""
        if conversation is self._probe:
            self._probe = None
            self._breaker.leave()
        if self._worker is not None:
            self._worker.forget(conversation)

    def settle(self, waiting: Collection[Ticket]) -> list[Ticket]:
        """Return the tickets that are settled: with a verdict, with an error, or too late.

        Args:
            waiting: the tickets of all open streams.
        """
        over = []
        while self._arrived:
            over.append(self._arrived.popleft())
        now = time.monotonic()
        for ticket in waiting:
            if ticket not in over and self.deadline(ticket) <= now:
                ticket.dropped, ticket.error = True, TOO_LATE
                over.append(ticket)
        for ticket in over:
            if ticket.error != DOWN:
                self._note_health(ticket)
                self._judged(now - ticket.asked)
        return over

    def deadline(self, ticket: Ticket) -> float:
        """Return the time after which a ticket is too late, in monotonic seconds."""
        return ticket.deadline(self.timeout)

    @property
    def waiting(self) -> int:
        """Number of verdicts that streams wait for."""
        return 0 if self._worker is None else self._worker.waiting

    @property
    def oldest(self) -> float:
        """Seconds since the oldest open verdict was asked for."""
        return 0.0 if self._worker is None else self._worker.oldest

    @property
    def alive(self) -> bool | None:
        """Whether the second stage's thread runs; None without a second stage."""
        return None if self._worker is None else self._worker.alive

    def _note(self, ticket: Ticket) -> None:
        self._arrived.append(ticket)
        self._tell()

    def _note_health(self, ticket: Ticket) -> None:
        """Note whether the second stage works. Only its own verdicts can show that."""
        if ticket.error is None and ticket.logit is not None and math.isfinite(ticket.logit):
            self._breaker.succeed()
            self._faults.open.pop("second stage", None)
        else:
            self._breaker.fail()
            why = ticket.error or "it gave no finite verdict"
            self._faults.open["second stage"] = DOWN if self._breaker.is_open else why


OpenDesk = Callable[[Scoring | None], VerdictDesk]
