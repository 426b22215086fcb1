"""The phases of a stream: what it does next and what it waits for. Only the engine's thread changes them.

    Queued -> ReadingPrompt -> (AwaitingPrompt ->) Decoding <-> AwaitingVerdict
                                                   Decoding -> Closing

A stream whose tokens another process makes receives them instead:

    Queued -> Receiving <-> Held
              Receiving -> Closing

So does a stream whose answer is written elsewhere, after this process has read its prompt:

    Queued -> ReadingPrompt -> (Held ->) Receiving <-> Held
                                         Receiving -> Closing

A stream can end in any phase. `Stream.done` says whether it is over, and another thread may set it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.gateway._sampling import Sample
from lockgate.gateway._verdicts import Ticket


@dataclass(frozen=True, slots=True, eq=False)
class Queued:
    """The stream has no memory yet. Its job waits, or the first choice reads the prompt for all."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadingPrompt:
    """The steps read the prompt, portion by portion."""


@dataclass(frozen=True, slots=True, eq=False)
class AwaitingPrompt:
    """The prompt is read, and the answer waits for its verdict. `logits` are those of the first token."""

    ticket: Ticket
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Decoding:
    """A token has been sampled. The next step consumes and scores it."""

    pending: Sample


@dataclass(frozen=True, slots=True, eq=False)
class AwaitingVerdict:
    """The pending token waits for the verdict on the block before it."""

    ticket: Ticket
    pending: Sample


@dataclass(frozen=True, slots=True, eq=False)
class Closing:
    """The answer has ended for `reason`. Only the verdict on its last block is missing."""

    ticket: Ticket
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Receiving:
    """Tokens arrive from elsewhere, and are cleared as they come."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Tokens that arrive wait for a verdict: on the prompt, or on the newest block of the answer."""

    ticket: Ticket
    in_prompt: bool


Phase = Queued | ReadingPrompt | AwaitingPrompt | Decoding | AwaitingVerdict | Receiving | Held | Closing


def ticket_of(phase: Phase) -> Ticket | None:
    """Return the ticket that a stream in this phase waits for, or None."""
    match phase:
        case AwaitingPrompt(ticket=ticket) | AwaitingVerdict(ticket=ticket):
            return ticket
        case Held(ticket=ticket) | Closing(ticket=ticket):
            return ticket
    return None


def waits_in_prompt(phase: Phase) -> bool:
    """Tell whether a stream waits for the verdict on its prompt."""
    return isinstance(phase, AwaitingPrompt) or (isinstance(phase, Held) and phase.in_prompt)
