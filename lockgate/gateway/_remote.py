"""Streams whose tokens another process makes and scores. Here they are checked, cleared and released.

The model sends each token together with its logits, after it has consumed the token. Positions count without
a gap from the start of the prompt, so a row that was lost is a fault, and a fault closes the stream. A stream
that waits for a verdict is not stopped in the other process: its later tokens wait here.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, RenderedChat, banned_ids
from lockgate.cascade import Regions
from lockgate.errors import BackboneMismatch, PoolFull
from lockgate.gateway._jobs import Job, Lane, Stream
from lockgate.gateway._phases import Held, Receiving
from lockgate.gateway._sampling import SamplingParams, stream_seed
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stepper import ScoringFault, Stepper, Wiring
from lockgate.guards import Conversation, regions_of

GAP = "scores of tokens were lost on their way from the model"
# Largest difference between the two scores of one token, in standard deviations of the scores.
_PARITY = {"float32": 0.01}
_LOW_PRECISION_PARITY = 0.25


@dataclass(frozen=True, slots=True)
class Order:
    """A request to the model for one answer.

    Attributes:
        id: name of the request.
        prompt: its tokens.
        regions: where scoring, the last user turn and the answer begin.
        max_tokens: longest answer.
        sampling: how tokens are drawn.
        seed: seed of this answer, below 2**63.
        banned: tokens that must not be drawn.
        ends: tokens that end the answer.
    """

    id: str
    prompt: list[int]
    regions: Regions
    max_tokens: int
    sampling: SamplingParams
    seed: int
    banned: frozenset[int]
    ends: frozenset[int]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one step of the model brings for an order.

    Attributes:
        id: name of the order.
        token_ids: new answer tokens. Each has been consumed and scored.
        first: position of the first row, counted from the start of the prompt.
        rows: logits `[tokens, outputs]` of the next positions: first of the prompt, then of `token_ids`.
            None if they were not scored.
        ended: why the answer is over, if it is.
        fault: why the model can't go on with this order. It is over then.
    """

    id: str
    token_ids: Sequence[int] = ()
    first: int = 0
    rows: NDArray[np.float32] | None = None
    ended: Literal["stop", "length"] | None = None
    fault: str | None = None


class RemoteModel(Protocol):
    """A model in another process. Only the engine's thread uses it.

    Attributes:
        kv_tokens: key-value tokens for all orders together.
        dtype: precision of the model.
    """

    @property
    def kv_tokens(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    @property
    def alive(self) -> bool:
        """Whether the process runs. Any thread may ask."""
        ...

    def submit(self, order: Order) -> None:
        """Start an order."""
        ...

    def step(self) -> list[Arrival]:
        """Wait for the next results. Raises ModelGone if the process has ended."""
        ...

    def abort(self, order_id: str) -> None:
        """Stop an order. Nothing of it arrives any more. A process that has ended is no error."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


@dataclass(slots=True, eq=False)
class Inbox:
    """What has arrived for a stream and is not cleared yet.

    Attributes:
        position: position of the next row.
        prompt: rows of the prompt.
        tokens: tokens of the answer, each with its row `[1, outputs]`.
        ended: why the answer is over in the other process.
        prompt_read: whether the whole prompt is cleared.
    """

    position: int
    prompt: deque[NDArray[np.float32]] = field(default_factory=deque)
    tokens: deque[tuple[int, NDArray[np.float32] | None]] = field(default_factory=deque)
    ended: str | None = None
    prompt_read: bool = False

    def receive(self, arrival: Arrival, answer_start: int) -> None:
        """Take what has arrived with its scores. Raises ScoringFault if rows are missing or repeated."""
        if arrival.fault is not None:
            self.ended = "fault"
            raise ScoringFault(arrival.fault)
        if arrival.rows is None and arrival.token_ids:
            raise ScoringFault(GAP)
        if arrival.rows is not None:
            self._take_rows(arrival, arrival.rows, answer_start)
        self.ended = arrival.ended

    def receive_unscored(self, arrival: Arrival) -> None:
        """Take what has arrived and leave out its scores."""
        self.tokens.extend((token, None) for token in arrival.token_ids)
        self.ended = arrival.ended

    def _take_rows(self, arrival: Arrival, rows: NDArray[np.float32], answer_start: int) -> None:
        in_prompt = min(len(rows), max(0, answer_start - self.position))
        answer = rows[in_prompt:]
        misplaced = len(rows) and arrival.first != self.position
        if misplaced or len(answer) != len(arrival.token_ids):
            raise ScoringFault(GAP)
        if in_prompt:
            self.prompt.append(rows[:in_prompt])
        self.tokens.extend(zip(arrival.token_ids, answer[:, None], strict=True))
        self.position += len(rows)


@dataclass(frozen=True, slots=True, eq=False)
class RemoteLane(Lane):
    """A lane whose memory is in the other process."""

    id: str
    capacity: int
    inbox: Inbox
    stop: Callable[["RemoteLane"], None]

    def close(self) -> None:
        """Stop the order in the other process, if it still runs."""
        self.stop(self)


@dataclass(frozen=True, slots=True)
class Open:
    """A stream whose order runs."""

    job: Job
    stream: Stream


class RemoteStepper(Stepper[Open]):
    """The stepper of a model in another process.

    Args:
        model: the model. It is closed with the stepper.
        scoring: the guard, or None.
        expect: reads a prompt with a model in this process and returns the logits of its scored tokens,
            `[tokens, outputs]`. `warm` compares the other model's with them.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring | None,
        model: RemoteModel,
        wiring: Wiring,
        *,
        expect: Callable[[RenderedChat], NDArray[np.float32]] | None = None,
    ) -> None:
        super().__init__(backbone.decode, wiring)
        self._model = model
        self._scoring = scoring
        self._expect = expect
        self._ends = backbone.eos_ids
        unused = range(len(backbone.tokenizer), backbone.vocab_size)
        self._banned = banned_ids(backbone.control_ids, backbone.eos_ids) | frozenset(unused)
        self._open: dict[str, Open] = {}
        self._reserved = 0

    @property
    def gives_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return False

    @property
    def alive(self) -> bool:
        """Whether the model's process runs."""
        return self._model.alive

    @property
    def kv_tokens(self) -> int:
        """Key-value tokens for all open streams together."""
        return self._model.kv_tokens

    @property
    def kv_used_tokens(self) -> int:
        """Key-value tokens that open streams have reserved."""
        return self._reserved

    def warm(self, chat: RenderedChat) -> None:
        """Let the model read a prompt, and compare its scores with those of the model in this process.

        Raises:
            BackboneMismatch: the model in the other process computes something else.
        """
        regions = regions_of(chat)
        self._model.submit(self._order("warm", chat.token_ids, regions, 1, SamplingParams(temperature=0), 0))
        inbox = Inbox(regions.start)
        try:
            while inbox.ended is None:
                for arrival in self._model.step():
                    inbox.receive(arrival, regions.answer_start)
        except ScoringFault as fault:
            raise BackboneMismatch(f"the model in the other process is not scored: {fault}") from fault
        if self._expect is not None:
            expected = self._expect(chat)
            found = np.concatenate([expected[:0], *inbox.prompt])
            _compare(found, expected, self._model.dtype)

    def open(self, job: Job) -> None:
        """Start an order for each choice. Raises PoolFull."""
        if self._reserved + job.n * job.capacity > self.kv_tokens:
            raise PoolFull(f"{self._reserved} of {self.kv_tokens} key-value tokens are in use")
        for stream in job.streams:
            state = (
                None if self._scoring is None else self._scoring.stages.new_state(job.regions, job.lowered)
            )
            gate = job.gate(state, self._text(job))
            conversation = Conversation(job.rendered, job.capacity)
            name = f"{job.id}-{stream.choice}"
            lane = RemoteLane(gate, conversation, name, job.capacity, Inbox(job.regions.start), self._stop)
            seed = stream_seed(job.seed_basis, job.sampling.seed, stream.choice) >> 1
            self._model.submit(self._order(name, job.prompt, job.regions, job.max_tokens, job.sampling, seed))
            stream.lane, stream.state, stream.phase = lane, state, Receiving()
            self._open[name] = Open(job, stream)
            self._reserved += lane.capacity

    def plan(self, active: Sequence[Job]) -> list[Open]:
        """Return the streams whose orders still run. Without one, nothing will arrive."""
        return [
            Open(job, stream)
            for job in active
            for stream in job.streams
            if not stream.done and _lane(stream).inbox.ended is None
        ]

    def run(self, portions: Sequence[Open]) -> None:
        """Wait for results and take them. What can't be used ends only its own stream."""
        for arrival in self._model.step():
            found = self._open.get(arrival.id)
            if found is None or found.stream.done:
                continue
            job, stream = found.job, found.stream
            inbox = _lane(stream).inbox
            try:
                self._receive(job, stream, arrival)
                self._advance(job, stream)
            except Exception as error:  # any fault must close the stream
                self._fail(job, stream, error, whole=not inbox.prompt_read)

    def close(self) -> None:
        """End the other process."""
        self._model.close()

    def _receive(self, job: Job, stream: Stream, arrival: Arrival) -> None:
        inbox, gate = _lane(stream).inbox, stream.opened.gate
        if self._scoring is None or gate.broken:
            inbox.receive_unscored(arrival)
            return
        try:
            inbox.receive(arrival, job.regions.answer_start)
        except ScoringFault as fault:
            if not gate.tolerant or arrival.fault is not None:
                raise
            gate.broken = str(fault)
            inbox.receive_unscored(arrival)

    def _continue(self, job: Job, stream: Stream, phase: Any) -> None:  # noqa: ANN401 - as declared above it
        stream.phase = Receiving()
        if isinstance(phase, Held) and phase.in_prompt:
            _lane(stream).inbox.prompt_read = True
        self._advance(job, stream)

    def _advance(self, job: Job, stream: Stream) -> None:
        """Clear what has arrived, as far as no verdict is due."""
        inbox = _lane(stream).inbox
        if isinstance(stream.phase, Receiving) and not inbox.prompt_read:
            self._take_prompt(job, stream, inbox)
        if inbox.prompt_read:
            job.trace.read()
        while inbox.prompt_read and inbox.tokens and _is_receiving(stream):
            self._take_token(job, stream, *inbox.tokens.popleft())
        if inbox.prompt_read and inbox.ended is not None and _is_receiving(stream):
            self._close(job, stream, inbox.ended)

    def _take_prompt(self, job: Job, stream: Stream, inbox: Inbox) -> None:
        gate = stream.opened.gate
        if self._scoring is None:
            inbox.prompt_read = True
            return
        while inbox.prompt:
            rows = inbox.prompt.popleft()
            scores = self._usable(gate, rows, len(rows))
            if scores is not None:
                gate.read_prompt(scores)
        stream.note_flag()
        if gate.halted:
            self._halt(job, stream, whole=True)
        elif inbox.position < job.regions.answer_start and gate.broken is None:
            if inbox.ended is not None:
                raise ScoringFault(GAP)
        elif self._is_due(stream):
            stream.phase = Held(self._ask_for(stream), in_prompt=True)
        else:
            inbox.prompt_read = True

    def _take_token(self, job: Job, stream: Stream, token_id: int, row: NDArray[np.float32] | None) -> None:
        if token_id in self._banned:
            raise ScoringFault("the model wrote a control token")
        stream.answered += 1
        stream.opened.conversation.answer.append(token_id)
        scores = None
        if self._scoring is not None:
            scores = self._usable(stream.opened.gate, row, 1)
        self._clear(job, stream, token_id, None, scores)
        if _is_receiving(stream) and self._is_due(stream):
            stream.phase = Held(self._ask_for(stream), in_prompt=False)

    def _order(
        self,
        name: str,
        prompt: list[int],
        regions: Regions,
        max_tokens: int,
        sampling: SamplingParams,
        seed: int,
    ) -> Order:
        return Order(name, prompt, regions, max_tokens, sampling, seed, self._banned, self._ends)

    def _stop(self, lane: RemoteLane) -> None:
        if self._open.pop(lane.id, None) is None:
            return
        self._reserved -= lane.capacity
        if lane.inbox.ended is None:
            self._model.abort(lane.id)


def _is_receiving(stream: Stream) -> bool:
    return isinstance(stream.phase, Receiving) and not stream.done


def _lane(stream: Stream) -> RemoteLane:
    lane = stream.opened
    if not isinstance(lane, RemoteLane):
        raise RuntimeError("a stream of another engine")
    return lane


def _compare(found: NDArray[np.float32], expected: NDArray[np.float32], dtype: str) -> None:
    """Check that two models give the same logits. Raises BackboneMismatch."""
    if found.shape != expected.shape:
        raise BackboneMismatch(
            f"the other process scored {found.shape[0]} tokens of a prompt, this one {expected.shape[0]}"
        )
    worst = float(np.abs(found - expected).max(initial=0.0))
    allowed = _PARITY.get(dtype, _LOW_PRECISION_PARITY) * (1.0 + float(expected.std()))
    if not worst <= allowed:
        raise BackboneMismatch(
            f"the model in the other process gives logits that differ by {worst:.3f} from the guard's own "
            f"({allowed:.3f} allowed in {dtype}); it is another model, or the probe does not run in it"
        )
