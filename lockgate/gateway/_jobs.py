"""The engine's work: one job for each request, one stream for each choice."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lockgate.backbones import RenderedChat
from lockgate.cascade import CascadeState, ExchangeState, Regions
from lockgate.exchanges import Message
from lockgate.gateway._events import Event
from lockgate.gateway._intake import Intake
from lockgate.gateway._options import Mode, Release
from lockgate.gateway._phases import Phase, Queued, ticket_of
from lockgate.gateway._sampling import SamplingParams
from lockgate.gateway._stream import AnswerGate, OutgoingText, Pace
from lockgate.gateway._traces import UNTRACED, JobTrace
from lockgate.gateway._verdicts import Ticket
from lockgate.guards import Conversation


@dataclass(frozen=True, slots=True, eq=False)
class Lane(ABC):
    """The parts of an open stream: its gate, and the conversation that stage 2 reads."""

    gate: AnswerGate
    conversation: Conversation

    @abstractmethod
    def close(self) -> None:
        """Free the stream's memory. Closing twice does nothing."""


@dataclass(slots=True, eq=False)
class Stream:
    """One choice. The engine's thread owns it; `done` is set only under the engine's lock.

    Attributes:
        phase: what the stream does next, until it is done.
        lane: the parts of an open stream. None before it is opened and after its memory is freed.
        state: the guard's state. Choices that never began get the state of the prompt that was flagged.
        answered: answer tokens consumed.
        first_token: when the first token left, in monotonic seconds.
        flagged_at: value of `answered` when the stream was flagged.
        done: whether the stream is over.
        turn: number of the stream's newest turn in a step.
        said: the text that was released, if the job keeps texts for the decision log.
    """

    choice: int
    phase: Phase = field(default_factory=Queued)
    lane: Lane | None = None
    state: ExchangeState | None = None
    answered: int = 0
    first_token: float | None = None
    flagged_at: int | None = None
    done: bool = False
    turn: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def opened(self) -> Lane:
        """The lane of an open stream. Raises RuntimeError if the stream is not open."""
        if self.lane is None:
            raise RuntimeError("a stream that is not open can't go on")
        return self.lane

    def note_flag(self) -> None:
        """Remember how many answer tokens were consumed when the stream was flagged."""
        if self.flagged_at is None and self.state is not None and self.state.flagged:
            self.flagged_at = self.answered


@dataclass(slots=True, eq=False)
class Job:
    """One request, tokenised. The engine's threads call `deliver` with its events.

    Attributes:
        intakes: the texts of the choices, if they are written elsewhere. Otherwise the model writes them.
        memory: key-value tokens for each of these choices. A longer one is read in windows.
        begin: called when the prompt of such a job is read and cleared, so that its answers may be written.
        caught_up: called with a choice of such a job and a number of characters when so much text has
            arrived, all of it is read and no verdict is due. What is not released then waits for more text or
            the end.
        client: whom the request is counted for when clients share the engine.
        tenant, key: whose it is, for the decision log: the tenant's name and the key's public id. None if the
            server asks for no key.
        turn: number of its streams' newest turn.
        route: the server's route by which it came; "" for a check.
        mode: whether flags stop its answers. None takes the engine's mode.
        release: whether its answers leave by tokens or in whole blocks. None takes the engine's way.
        fails_open: whether an answer that is written elsewhere goes on when the guard fails.
        lowered: by how much its conversation has lowered the threshold that flags.
        remember: called with the margin of each of its choices at the end; see `Memory`.
        messages: the prompt's text, if the decision log keeps texts. Otherwise empty.
        trace: takes what happens to it.
    """

    id: str
    prompt: list[int]
    regions: Regions
    max_tokens: int
    n: int
    stops: tuple[str, ...]
    sampling: SamplingParams
    seed_basis: str
    deliver: Callable[[Event], None]
    chat: RenderedChat | None = None
    intakes: Sequence[Intake] = ()
    memory: int = 0
    begin: Callable[[], None] = lambda: None
    caught_up: Callable[[int, int], None] = lambda choice, characters: None
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    cancelled: bool = False
    client: str = ""
    tenant: str | None = None
    key: str | None = None
    turn: int = 0
    route: str = ""
    mode: Mode | None = None
    release: Release | None = None
    fails_open: bool = False
    lowered: float = 0.0
    remember: Callable[[float], None] = lambda margin: None
    messages: Sequence[Message] = ()
    trace: JobTrace = UNTRACED
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.streams = [Stream(choice) for choice in range(self.n)]

    @property
    def enforced(self) -> bool:
        """Whether a flag stops its answers."""
        return self.mode in (None, "enforce")

    @property
    def opens(self) -> bool:
        """Whether its answers leave unguarded if the guard fails, although flags would stop them."""
        return self.fails_open and self.enforced and bool(self.intakes)

    @property
    def goes_on(self) -> bool:
        """Whether its answers leave although the guard has failed. In shadow mode nothing stops them."""
        return bool(self.intakes) and (self.fails_open or not self.enforced)

    @property
    def broken(self) -> bool:
        """Whether the guard has failed for one of its open streams, which goes on."""
        lanes = [stream.lane for stream in self.streams]
        return any(lane is not None and lane.gate.broken is not None for lane in lanes)

    def gate(self, state: ExchangeState | None, text: OutgoingText) -> AnswerGate:
        """Make the gate of one of its streams."""
        tolerant = self.fails_open and bool(self.intakes)
        return AnswerGate(state, text, enforce=self.enforced, tolerant=tolerant, pace=self._pace(state))

    def _pace(self, state: ExchangeState | None) -> Pace | None:
        """Return the blocks in which a stream leaves. A guard of one stage has none."""
        if self.release != "block" or not isinstance(state, CascadeState):
            return None
        return Pace(state.cascade.stride, state.cascade.delay)

    @property
    def prefix(self) -> list[int]:
        """The template's constant first tokens. They are read once for all streams and never scored."""
        return self.prompt[: self.regions.start]

    @property
    def capacity(self) -> int:
        """Key-value tokens that one choice needs at most."""
        return self.memory if self.intakes else len(self.prompt) + self.max_tokens

    @property
    def done(self) -> bool:
        return all(stream.done for stream in self.streams)

    @property
    def rendered(self) -> RenderedChat:
        """The rendered prompt. It is made from the regions if the job has none."""
        regions = self.regions
        return self.chat or RenderedChat(
            self.prompt, regions.start, [], regions.prompt_start, len(self.prompt), len(self.prompt)
        )

    def fork_state(self) -> ExchangeState | None:
        """Copy the first choice's state at the end of the prompt, which all choices share."""
        return copy.deepcopy(self.streams[0].state)


def tickets_of(jobs: Sequence[Job]) -> dict[Ticket, tuple[Job, Stream]]:
    """Return the tickets that open streams wait for."""
    open_streams = [(job, stream) for job in jobs for stream in job.streams if not stream.done]
    found = ((ticket_of(stream.phase), job, stream) for job, stream in open_streams)
    return {ticket: (job, stream) for ticket, job, stream in found if ticket is not None}
