"""Batches of rows: cut by the input alone, and run on a step by whatever executor there is."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lockgate.errors import SynthesisError
from lockgate.synthesis._rows import Row, decode_row, encode_row, row_id
from lockgate.synthesis._step import Step, StepContext


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of a step's input, as lines of JSON, with their place in the order."""

    number: int
    lines: Sequence[bytes]

    @property
    def digest(self) -> str:
        """64 hex digits of the SHA-256 of the lines."""
        return hashlib.sha256(b"".join(self.lines)).hexdigest()


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What a step made of a batch. Counters and reasons are sorted, so that equal output is equal bytes."""

    number: int
    lines: Sequence[bytes]
    rejected: Sequence[bytes]
    counters: dict[str, int]
    reasons: dict[str, int]


def run_batch(step: Step, batch: Batch) -> BatchOutput:
    """Run a step on one batch; executors call it in whatever process they like.

    Raises:
        SynthesisError: the step yields a row without an id, or two with the same; or what the step raises.
    """
    rejected: list[bytes] = []
    context = StepContext(step.name, lambda row: rejected.append(encode_row(row)))
    rows = [decode_row(line) for line in batch.lines]
    lines = [encode_row(row) for row in check_rows(step.name, step.run(rows, context))]
    return BatchOutput(
        batch.number,
        lines,
        rejected,
        dict(sorted(context.counters.items())),
        dict(sorted(context.reasons.items())),
    )


def check_rows(step: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, once each has an id of its own among them: seeds come from ids."""
    seen: set[str] = set()
    for row in rows:
        own = row_id(row)
        if own in seen:
            raise SynthesisError(
                f"step {step}: two rows have the same id; give each child of a row its own number "
                "in derive_row"
            )
        seen.add(own)
        yield row


def cut_batches(lines: Iterable[bytes], batch_rows: int) -> Iterator[Batch]:
    """Consecutive batches of `batch_rows` lines; the last may be shorter."""
    held: list[bytes] = []
    number = 0
    for line in lines:
        held.append(line)
        if len(held) == batch_rows:
            yield Batch(number, held)
            held, number = [], number + 1
    if held:
        yield Batch(number, held)
