"""The steps of a pipeline: their interface, their generators, and the context that counts dropped rows."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lockgate.synthesis._requests import Generator
from lockgate.synthesis._rows import Reject, Row, reject_row, row_seed


class GeneratorSource:
    """A name and a function that makes a generator. Each process that uses it makes its own, once.

    Attributes:
        name: the generator's name in data and cards.
        identity: part of the key of each batch (default: `name`). Give the generator's own `identity`, so
            that another model or another endpoint changes the key.
        make: makes the generator.
        answered: whether the generator has answered anything. Steps set it. Other processes assume it.
    """

    def __init__(self, name: str, make: Callable[[], Generator], *, identity: str | None = None) -> None:
        self.name = name
        self.identity = name if identity is None else identity
        self.make = make
        self.answered = False
        self._made: Generator | None = None

    def get(self) -> Generator:
        """Return the generator of this process; make it on the first call."""
        if self._made is None:
            self._made = self.make()
        return self._made

    def close(self) -> None:
        """Close the generator, if it can be closed. The next `get` makes another."""
        close = getattr(self._made, "close", None)
        if close is not None:
            close()
        self._made = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes its own connections and weights. It can't know what was answered elsewhere,
        # and a few bad rows at the end of a run must not count as a broken generator.
        kept = {"name": self.name, "identity": self.identity, "make": self.make}
        return {**kept, "answered": True, "_made": None}


@dataclass(slots=True)
class StepContext:
    """The counters of a step and the sink for its dropped rows. Each batch has its own.

    Attributes:
        step: the step's name.
        sink: a function that takes each dropped row, with the reason in `meta.rejected`.
        counters: the step's own counts, summed over batches.
        reasons: number of dropped rows by reason.
    """

    step: str
    sink: Callable[[Row], object]
    counters: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.counters[name] += amount

    def reject(self, row: Row, reject: Reject) -> None:
        """Drop a row for a reason."""
        self.reasons[reject.reason] += 1
        self.sink(reject_row(row, self.step, reject))

    def seed(self, row: Row, attempt: int = 0) -> int:
        """Return the seed for this row in this step. It is the same in every run."""
        return row_seed(row, self.step, attempt)


class Step(ABC):
    """A step that reads rows and yields rows.

    A step is a function of its rows and its configuration. It keeps no state between batches, reads no clock,
    and takes randomness only from `context.seed`. So a batch can be repeated, skipped or run on another
    machine.

    Attributes:
        name: unique in its pipeline; letters, digits, `-` and `_`.
        version: raise it when a code change alters the output.
        whole: whether the step must see all rows at once. The pipeline then gives it a sequence that reads
            from disk, in order or by position, as often as the step likes.
        batch_rows: rows of a batch, unless the step is `whole`. A kill repeats at most one batch.
    """

    whole: ClassVar[bool] = False
    batch_rows: int = 2048

    def __init__(self, name: str, *, version: str = "1") -> None:
        self.name = name
        self.version = version

    def config(self) -> Mapping[str, Any]:
        """Return the settings that decide the output, as JSON. They are part of the key of each batch."""
        return {}

    @abstractmethod
    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        """Yield the rows that go on, in an order that depends only on `rows`. Reject others to `context`."""
