"""Batches of rows: how the input is cut, and how a step runs on one batch."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lockgate.errors import SynthesisError
from lockgate.synthesis._rows import Row, decode_row, encode_row, row_id
from lockgate.synthesis._step import Step, StepContext


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of a step's input as lines of JSON, with the number of the batch."""

    number: int
    lines: Sequence[bytes]

    @property
    def digest(self) -> str:
        """The SHA-256 of the lines, 64 hex digits."""
        return hashlib.sha256(b"".join(self.lines)).hexdigest()


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """The output of a step for a batch. Counters and reasons are sorted, so equal output is equal bytes."""

    number: int
    lines: Sequence[bytes]
    rejected: Sequence[bytes]
    counters: dict[str, int]
    reasons: dict[str, int]


def run_batch(step: Step, batch: Batch) -> BatchOutput:
    """Run a step on one batch. Executors call this in a process of their choice.

    Raises:
        SynthesisError: The step yields a row without an id or two rows with one id, or raises it itself.
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
    """Yield the rows and check that each id is unique, because seeds come from ids."""
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
    """Yield consecutive batches of `batch_rows` lines. The last may be shorter."""
    held: list[bytes] = []
    number = 0
    for line in lines:
        held.append(line)
        if len(held) == batch_rows:
            yield Batch(number, held)
            held, number = [], number + 1
    if held:
        yield Batch(number, held)
