"""What the engine works on: one job for a request, one stream for each of its choices."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lockgate.backbones import RenderedChat, Session
from lockgate.cascade import ExchangeState, Regions
from lockgate.gateway._events import Event
from lockgate.gateway._phases import Phase, Queued
from lockgate.gateway._sampling import Sampler, SamplingParams
from lockgate.gateway._stream import AnswerGate
from lockgate.guards import Conversation


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What an open stream works with: its memory, its way out, its sampler, and itself for stage 2."""

    session: Session
    gate: AnswerGate
    sampler: Sampler
    conversation: Conversation


@dataclass(slots=True, eq=False)
class Stream:
    """One choice. Owned by the engine's thread; `done` is only set under the engine's lock.

    Attributes:
        phase: what it does next, as long as it is not done.
        lane: what it works with; None before it is opened and once its memory has been given back.
        state: what the guard knows of it. Choices that never began have that of the prompt which ended them.
        answered: answer tokens consumed.
        flagged_at: how many those were when the flag rose.
    """

    choice: int
    phase: Phase = field(default_factory=Queued)
    lane: Lane | None = None
    state: ExchangeState | None = None
    answered: int = 0
    first_token: float | None = None
    flagged_at: int | None = None
    done: bool = False

    @property
    def opened(self) -> Lane:
        """Its lane. Raises RuntimeError: it has none."""
        if self.lane is None:
            raise RuntimeError("a stream that is not open can't go on")
        return self.lane

    def note_flag(self) -> None:
        """Remember how far the answer had come when the stream was flagged."""
        if self.flagged_at is None and self.state is not None and self.state.flagged:
            self.flagged_at = self.answered


@dataclass(slots=True, eq=False)
class Job:
    """One request, tokenised. Events go to `deliver`, which is called from the engine's threads."""

    id: str
    prompt: list[int]
    regions: Regions
    max_tokens: int
    n: int
    stops: tuple[str, ...]
    sampling: SamplingParams
    seed_basis: Mapping[str, Any]
    deliver: Callable[[Event], None]
    chat: RenderedChat | None = None
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    cancelled: bool = False
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.streams = [Stream(choice) for choice in range(self.n)]

    @property
    def prefix(self) -> list[int]:
        """The template's constant first tokens, read once for all streams and never scored."""
        return self.prompt[: self.regions.start]

    @property
    def capacity(self) -> int:
        """Key-value tokens of one choice."""
        return len(self.prompt) + self.max_tokens

    @property
    def done(self) -> bool:
        return all(stream.done for stream in self.streams)

    @property
    def rendered(self) -> RenderedChat:
        """The prompt as it was rendered; made up from the regions where the job was made without it."""
        regions = self.regions
        return self.chat or RenderedChat(
            self.prompt, regions.start, [], regions.prompt_start, len(self.prompt), len(self.prompt)
        )

    def fork_state(self) -> ExchangeState | None:
        """A copy of the first choice's state, at the end of the prompt that all choices share."""
        return copy.deepcopy(self.streams[0].state)
