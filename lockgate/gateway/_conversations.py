"""What the server remembers of conversations: evidence by conversation id, for a limited time."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from lockgate.cascade.memory import Memory
from lockgate.gateway._clients import caller_of
from lockgate.gateway._jobs import Job

HEADER = "x-lockgate-conversation"


@dataclass(slots=True)
class _Entry:
    evidence: float
    seen: float


class Conversations:
    """The evidence of conversations. Any thread may call it.

    A conversation is known by its id and the client's tenant or key, so no client reaches another one's. Its
    state belongs to the id, not to its messages: an edited or regenerated turn adds to it like any other.
    Only conversations with evidence take memory.

    Args:
        memory: how exchanges add up.
        life: seconds after its newest exchange until a conversation is forgotten.
        most: conversations that are remembered; beyond them the one that was quiet longest is forgotten.
        clock: seconds that only grow.
        made_for: measure and threshold of the guard that the memory was made for. None: it is not known.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        life: float = 3600.0,
        most: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        made_for: tuple[str, float] | None = None,
    ) -> None:
        self.memory = memory
        self.made_for = made_for
        self._life, self._most, self._clock = life, most, clock
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def follow(self, job: Job, request: Request) -> None:
        """Judge a job in the light of its conversation, and add it to that. Without an id, do nothing."""
        given = request.headers.get(HEADER)
        if given:
            conversation = conversation_id(caller_of(request).holder, given)
            job.lowered = self.lowered(conversation)
            before = job.remember

            def remember(margin: float) -> None:
                before(margin)
                self.add(conversation, margin)

            job.remember = remember

    def lowered(self, conversation: bytes) -> float:
        """Return by how much the threshold of the conversation's next exchange lies lower."""
        with self._lock:
            self._forget()
            entry = self._known.get(conversation)
            return self.memory.lowered(0.0 if entry is None else entry.evidence)

    def add(self, conversation: bytes, margin: float) -> None:
        """Note an exchange that has ended, and its margin (see `Memory`)."""
        with self._lock:
            self._forget()
            entry = self._known.pop(conversation, None)
            evidence = self.memory.add(0.0 if entry is None else entry.evidence, margin)
            if evidence > 0:
                self._known[conversation] = _Entry(evidence, self._clock())
                if len(self._known) > self._most:
                    self._known.popitem(last=False)

    def _forget(self) -> None:
        latest = self._clock() - self._life
        while self._known and next(iter(self._known.values())).seen < latest:
            self._known.popitem(last=False)


def conversation_id(holder: str | None, given: str) -> bytes:
    """Return what a conversation is known by: a hash of its id and of who holds it (see `Client.holder`)."""
    return hashlib.sha256(f"{holder or ''}\0{given}".encode("utf-8", "surrogatepass")).digest()
