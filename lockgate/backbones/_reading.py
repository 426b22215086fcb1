"""Reading of whole exchanges in bulk, with the same sessions and packed steps that serve streams."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lockgate.backbones._sessions import Feed, Session, SessionPool
from lockgate.backbones._taps import Tap
from lockgate.errors import PoolFull

Job = TypeVar("Job")

TOKENS_PER_STEP = 1024


@dataclass(frozen=True, slots=True)
class Reading(Generic[Job]):
    """A sequence to read.

    Attributes:
        job: the caller's own object for this sequence.
        token_ids: its tokens.
        prefix_length: constant tokens at its start, which are not shown to the tap.
        end: number of tokens to read.
    """

    job: Job
    token_ids: Sequence[int]
    prefix_length: int
    end: int


@dataclass(frozen=True, slots=True)
class Read(Generic[Job]):
    """A part of a job that the last step has read.

    Attributes:
        job: the caller's own object for the sequence.
        start, end: the part's tokens, `start:end` of the sequence.
        rows: the rows of the tap that belong to these tokens.
        last: whether the sequence is read to its end.
    """

    job: Job
    start: int
    end: int
    rows: slice
    last: bool


@dataclass(slots=True)
class _Progress(Generic[Job]):
    reading: Reading[Job]
    session: Session
    position: int


def read_packed(
    pool: SessionPool,
    readings: Iterable[Reading[Job]],
    tap: Tap | None,
    tokens_per_step: int = TOKENS_PER_STEP,
) -> Iterator[list[Read[Job]]]:
    """Read sequences one after another, packed into steps of `tokens_per_step` tokens.

    Each token is read once, unless the sequence is longer than the backbone's context. Then a new session
    reads the last half of the context again, and the tap still sees every token once. The plan depends on the
    input alone.

    Yields:
        The parts that a step has read. The tap holds their rows until the next step.

    Raises:
        PoolFull: the pool has no memory for a single sequence.
    """
    queue = (reading for reading in readings if reading.end > reading.prefix_length)
    waiting: Reading[Job] | None = None
    current: _Progress[Job] | None = None
    while True:
        parts: list[tuple[_Progress[Job], int, int]] = []
        room = tokens_per_step
        while room > 0:
            if current is None:
                waiting = waiting or next(queue, None)
                if waiting is None:
                    break
                try:
                    current = _start(pool, waiting)
                except PoolFull:
                    if not parts:
                        raise
                    break
                waiting = None
            take = min(room, current.reading.end - current.position, _free(current.session))
            if take <= 0:
                _slide(pool, current)
                continue
            parts.append((current, current.position, current.position + take))
            current.position += take
            room -= take
            if current.position < current.reading.end:
                break
            current = None
        if not parts:
            return
        yield _step(pool, parts, tap)


def _step(
    pool: SessionPool, parts: Sequence[tuple[_Progress[Job], int, int]], tap: Tap | None
) -> list[Read[Job]]:
    feeds = [Feed(progress.session, progress.reading.token_ids[start:end]) for progress, start, end in parts]
    pool.step(feeds, tap)
    done: list[Read[Job]] = []
    row = 0
    for progress, start, end in parts:
        last = end == progress.reading.end
        done.append(Read(progress.reading.job, start, end, slice(row, row + end - start), last))
        row += end - start
        if last:
            progress.session.close()
    return done


def _free(session: Session) -> int:
    return session.capacity - session.length


def _start(pool: SessionPool, reading: Reading[Job]) -> _Progress[Job]:
    capacity = min(reading.end, pool.backbone.context_length)
    session = pool.open(capacity, prefix=reading.token_ids[: reading.prefix_length])
    return _Progress(reading, session, reading.prefix_length)


def _slide(pool: SessionPool, progress: _Progress[Job]) -> None:
    """Continue in a new session. It starts with the prefix and half the context, read again without a tap."""
    reading = progress.reading
    overlap = pool.backbone.context_length // 2
    progress.session.close()
    rest = reading.end - progress.position
    capacity = min(pool.backbone.context_length, reading.prefix_length + overlap + rest)
    progress.session = pool.open(capacity, prefix=reading.token_ids[: reading.prefix_length])
    again = reading.token_ids[max(reading.prefix_length, progress.position - overlap) : progress.position]
    room = capacity - progress.session.length - 1
    again = again[max(0, len(again) - room) :]
    for start in range(0, len(again), TOKENS_PER_STEP):
        pool.step([Feed(progress.session, again[start : start + TOKENS_PER_STEP])])
