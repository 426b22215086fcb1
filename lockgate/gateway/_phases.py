"""Where an open stream stands, and what it waits for. Only the engine's thread moves it on.

    Queued -> ReadingPrompt -> (AwaitingPrompt ->) Decoding <-> AwaitingVerdict
                                                   Decoding -> Closing

Any phase may be the last one: whether a stream is over stands in `Stream.done`, which another thread may set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.gateway._sampling import Sample
from lockgate.gateway._verdicts import Ticket


@dataclass(frozen=True, slots=True, eq=False)
class Queued:
    """It has no memory: its job waits to be admitted, or the first choice reads the prompt for all."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadingPrompt:
    """Its prompt goes into the steps, portion by portion."""


@dataclass(frozen=True, slots=True, eq=False)
class AwaitingPrompt:
    """The prompt is read, and no answer begins before the verdict on it. `logits` are of the first token."""

    ticket: Ticket
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Decoding:
    """A token has been sampled; the next step consumes and scores it."""

    pending: Sample


@dataclass(frozen=True, slots=True, eq=False)
class AwaitingVerdict:
    """The pending token goes into no step before the verdict on the block in front of it."""

    ticket: Ticket
    pending: Sample


@dataclass(frozen=True, slots=True, eq=False)
class Closing:
    """The answer has ended for `reason`, and only the verdict on its last block is missing."""

    ticket: Ticket
    reason: str


Phase = Queued | ReadingPrompt | AwaitingPrompt | Decoding | AwaitingVerdict | Closing


def ticket_of(phase: Phase) -> Ticket | None:
    """The verdict that a stream in this phase waits for."""
    match phase:
        case AwaitingPrompt(ticket=ticket) | AwaitingVerdict(ticket=ticket) | Closing(ticket=ticket):
            return ticket
    return None
