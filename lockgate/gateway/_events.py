"""Events that the engine sends to the HTTP side of a request."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lockgate.decisions import DecisionKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReleasedToken:
    """A token that was scored and cleared.

    Attributes:
        score: its smoothed logit; None without a guard.
        threshold: what the score was compared with (`Verdict.threshold`); None without a guard.
    """

    text: str
    score: float | None
    logprob: float | None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Text that the client may see, and its tokens. `text` may be empty when `tokens` is not."""

    choice: int
    text: str
    tokens: tuple[ReleasedToken, ...]


@dataclass(frozen=True, slots=True)
class Unserved:
    """Why the server gave up a request itself: an HTTP status, and when to try again, in seconds."""

    status: int
    code: str
    message: str
    retry_after: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice. Its decision is in the log before this event is delivered.

    `refusal` is set exactly when the answer was stopped; `reason` is then `content_filter`. `unserved` is set
    exactly when the server gave up the request.
    """

    choice: int
    reason: str
    decision: DecisionKind
    enforced: bool
    refusal: str | None
    category: str | None
    completion_tokens: int
    max_prompt: float | None
    max_answer: float | None
    threshold: float | None
    unserved: Unserved | None = None

    @property
    def given_up(self) -> bool:
        """Whether the server gave the choice up and no flag stopped it, so that it is not whole."""
        return self.refusal is None and (self.unserved is not None or self.decision == "cancelled")


Event = Released | Finished


def deliver_to(queue: "asyncio.Queue[T]") -> Callable[[T], None]:
    """Return a function with which any thread can put events into a queue of the running loop."""
    loop = asyncio.get_running_loop()

    def deliver(event: T) -> None:
        # The loop may be closed; then nobody waits for the event.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, event)

    return deliver
