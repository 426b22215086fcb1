"""A streamed answer of an upstream on its way to the client.

Two tasks share a `Relay`. The *pump* reads the upstream's events, gives their text to the engine and queues
them. The other one takes the engine's events and lets queued pieces leave: a piece leaves when all of its
text is cleared and the pieces of its choice before it have left. While too much waits, the pump stops
reading, so that the upstream feels it. But the guard may need more text before it clears what it has read,
so the pump reads on then.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError
from lockgate.gateway._events import Event, Finished, Unserved
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import RESTART_SECONDS
from lockgate.gateway.upstream._client import UpstreamError
from lockgate.gateway.upstream._dialect import Piece, Stopped, Transcript

# Pieces, and characters of their text, that wait for the guard before the upstream is read further.
MOST_PIECES = 256
MOST_CHARACTERS = 8_192
# Pieces that wait at most while the guard needs more text.
MOST_HELD = 65_536


@dataclass(slots=True)
class Queued:
    """A piece that waits. `end` is where its text ends among all text of its choice."""

    piece: Piece
    end: int


class Relay:
    """The pieces of one streamed answer between upstream and client.

    Args:
        job: the guard's job for it.
        notify: called when pieces may leave that no event of the engine follows.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        transcript: Transcript,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._job = job
        self._transcript = transcript
        self._notify = notify
        self._queue: deque[Queued] = deque()
        self._given = [0] * job.n
        self._cleared = [0] * job.n
        self._caught_up = [0] * job.n  # characters that the guard has read, while no verdict is due
        self._read = [0] * job.n  # the same, as far as the engine's events before it are taken
        loop = asyncio.get_running_loop()
        job.caught_up = lambda *read: _post(loop, lambda: self._catch_up(*read))
        self._ended: set[int] = set()  # choices whose text is whole
        self._finished: set[int] = set()  # choices that the guard is done with
        self._passed: set[int] = set()  # of these: judged as a whole, or unguarded as their route fails open
        self._stopped: dict[int, Stopped] = {}
        self._room = asyncio.Event()
        self._room.set()
        self.exhausted = False  # the upstream sends nothing more
        self.failure: ApiError | None = None  # why the stream breaks off
        self._fault: UpstreamError | None = None  # what the upstream did wrong

    @property
    def over(self) -> bool:
        """Whether everything that may leave has left."""
        done = len(self._finished) == self._job.n
        return done and not self._queue and (self.exhausted or len(self._stopped) == self._job.n)

    @property
    def decided(self) -> bool:
        """Whether the guard is done with all choices."""
        return len(self._finished) == self._job.n

    @property
    def whole(self) -> bool:
        """Whether the text of all choices has arrived."""
        return len(self._ended) == self._job.n

    async def pump(self, source: httpx2.EventSource) -> None:
        """Read the upstream's events to the end.

        Raises:
            UpstreamError: the stream ended too early, or can't be understood.
        """
        async for event in source:
            for piece in self._transcript.read(event.event, event.data):
                self._take(piece)
            if self._transcript.over:
                break
            await self._room.wait()
        if not self._transcript.over and len(self._ended) < self._job.n:
            raise UpstreamError(502, "upstream_ended", "The upstream's answer ended too early.")
        for choice in range(self._job.n):
            self._end(choice, "stop")

    def _take(self, piece: Piece) -> None:
        choice = piece.choice
        if len(self._queue) >= MOST_HELD:
            raise UpstreamError(502, "upstream_malformed", "The upstream sends too many events without text.")
        if choice is None:
            self._queue.append(Queued(piece, 0))
            self._notify()
            self._make_room()
            return
        if choice in self._finished and choice not in self._passed:
            return  # it was stopped
        if piece.text and choice in self._ended:
            raise UpstreamError(502, "upstream_malformed", "The upstream wrote on after its answer's end.")
        self._give(choice, piece.text)
        self._queue.append(Queued(piece, self._given[choice]))
        if piece.ended is not None:
            self._end(choice, piece.ended)
        if not piece.text or choice in self._passed:
            self._notify()
        self._make_room()

    def _give(self, choice: int, text: str) -> None:
        if text and choice not in self._finished:
            self._given[choice] += len(text)
            self._engine.give(self._job, choice, text)

    def _end(self, choice: int, reason: str) -> None:
        if choice not in self._ended:
            self._give(choice, self._transcript.leave(choice))
            self._ended.add(choice)
            self._engine.end_given(self._job, choice, reason)

    def take(self, event: Event) -> bytes:
        """Take an event of the engine. Return what may leave now."""
        if not isinstance(event, Finished):
            self._cleared[event.choice] += len(event.text)
            return self.flush()
        choice = event.choice
        self._finished.add(choice)
        if event.given_up:
            self._drop(choice)
            self.failure = self.failure or self._fault or cancelled(event)
            return b""
        if event.refusal is None:
            self._passed.add(choice)
            return self.flush()
        stopped = Stopped(event.refusal, len(self._job.prompt), event.completion_tokens)
        self._stopped[choice] = stopped
        # What was cleared has left already. The rest of the choice never leaves.
        self._drop(choice)
        if len(self._stopped) == self._job.n:
            self._queue.clear()  # what belongs to all choices follows no choice any more
        return self._transcript.halt(choice, stopped) + self.flush()

    def _drop(self, choice: int) -> None:
        self._queue = deque(queued for queued in self._queue if queued.piece.choice != choice)

    def flush(self) -> bytes:
        """Take the pieces that may leave out of the queue, and return their bytes."""
        self._read[:] = self._caught_up
        leaving: list[bytes] = []
        waiting: deque[Queued] = deque()
        held: set[int] = set()
        for queued in self._queue:
            choice = queued.piece.choice
            if not waiting if choice is None else choice not in held and self._is_cleared(queued, choice):
                leaving.append(queued.piece.data)
                self._transcript.left(queued.piece)
                continue
            waiting.append(queued)
            if choice is not None:
                held.add(choice)
        self._queue = waiting
        self._make_room()
        return b"".join(leaving)

    def _is_cleared(self, queued: Queued, choice: int) -> bool:
        if choice in self._passed:
            return True
        return queued.piece.ended is None and queued.end <= self._cleared[choice]

    def _make_room(self) -> None:
        open_choices = [choice for choice in range(self._job.n) if choice not in self._finished]
        waiting = sum(self._given[choice] - self._cleared[choice] for choice in open_choices)
        unread = sum(self._given[choice] - self._read[choice] for choice in open_choices)
        if (
            len(self._stopped) == self._job.n
            or (len(self._queue) < MOST_PIECES and waiting < MOST_CHARACTERS)
            or (unread < MOST_CHARACTERS and any(self._needs_more(choice) for choice in open_choices))
        ):
            self._room.set()
        else:
            self._room.clear()

    def _needs_more(self, choice: int) -> bool:
        """Tell whether the guard has read all of a choice, and clears no more of it before more comes."""
        given = self._given[choice]
        return choice not in self._ended and self._read[choice] == given > self._cleared[choice]

    def _catch_up(self, choice: int, characters: int) -> None:
        self._caught_up[choice] = characters
        self._notify()

    def break_off(self, error: UpstreamError) -> None:
        """End the answer, because the upstream can't go on. If nothing more was to come, do nothing."""
        if self.whole or len(self._stopped) == self._job.n:
            return
        self._fault = error
        if self.decided:
            self.failure = self.failure or error
            return
        wait = int(error.headers.get("Retry-After", "1"))
        self._engine.give_up(self._job, Unserved(error.status, error.code or "", error.message, wait))

    def closing(self) -> bytes:
        """Return the events that end the stream."""
        stopped = next(iter(self._stopped.values()), None)
        return self._transcript.close(stopped)


def _post(loop: asyncio.AbstractEventLoop, change: Callable[[], None]) -> None:
    # The loop may be closed; then nobody waits for the news.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(change)


def cancelled(event: Finished) -> ApiError:
    """Return the error for a choice that this server gave up."""
    unserved = event.unserved or Unserved(503, "unavailable", "The server is stopping.", RESTART_SECONDS)
    return ApiError(
        unserved.status,
        unserved.message,
        kind="server_error",
        code=unserved.code,
        headers={"Retry-After": str(unserved.retry_after)},
    )
