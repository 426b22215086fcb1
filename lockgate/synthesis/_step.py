"""What a step of a pipeline is: named, versioned, counted, and honest about what it drops."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lockgate.synthesis._requests import Generator
from lockgate.synthesis._rows import Reject, Row, reject_row, row_seed


class GeneratorSource:
    """A generator by name and by how to make it; made once by each process that uses it.

    `identity` (default: `name`) enters the key of each batch: give what the generator's own says, so that
    another model, or one at another endpoint, is another input. `name` is for data and cards. `answered`:
    whether anything was answered, kept by the steps that ask and taken for granted in other processes.
    """

    def __init__(self, name: str, make: Callable[[], Generator], *, identity: str | None = None) -> None:
        self.name = name
        self.identity = name if identity is None else identity
        self.make = make
        self.answered = False
        self._made: Generator | None = None

    def get(self) -> Generator:
        """The generator of this process."""
        if self._made is None:
            self._made = self.make()
        return self._made

    def close(self) -> None:
        """Close what `get` made, where it can be closed; the next `get` makes another."""
        close = getattr(self._made, "close", None)
        if close is not None:
            close()
        self._made = None

    def __getstate__(self) -> dict[str, Any]:
        # Connections and weights stay where they are; another process makes its own. It can't know what was
        # answered elsewhere, and a few bad rows at the end of a run must not count as a broken generator.
        kept = {"name": self.name, "identity": self.identity, "make": self.make}
        return {**kept, "answered": True, "_made": None}


@dataclass(slots=True)
class StepContext:
    """Where a step counts and where it puts what it drops; one per batch.

    Attributes:
        step: the step's name.
        sink: takes each dropped row, its reason in `meta.rejected`.
        counters: anything a step wants to count; summed over batches.
        reasons: dropped rows by reason.
    """

    step: str
    sink: Callable[[Row], object]
    counters: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.counters[name] += amount

    def reject(self, row: Row, reject: Reject) -> None:
        """Drop a row, with its reason."""
        self.reasons[reject.reason] += 1
        self.sink(reject_row(row, self.step, reject))

    def seed(self, row: Row, attempt: int = 0) -> int:
        """Seed for this row in this step, the same in every run."""
        return row_seed(row, self.step, attempt)


class Step(ABC):
    """A step that reads rows and yields rows.

    It is a function of its rows and its configuration: no state from one batch to the next, no clock, no
    randomness but `context.seed`. Then a batch can be repeated, skipped or run on another machine.

    Attributes:
        name: unique in its pipeline; letters, digits, `-` and `_`.
        version: raise it when the code changes what comes out.
        whole: whether it must see all rows at once. A pipeline gives such a step a sequence that reads from
            disk, in order and by position, as often as the step likes.
        batch_rows: rows of a batch otherwise. What was in flight at a kill is repeated, at most one batch.
    """

    whole: ClassVar[bool] = False
    batch_rows: int = 2048

    def __init__(self, name: str, *, version: str = "1") -> None:
        self.name = name
        self.version = version

    def config(self) -> Mapping[str, Any]:
        """What decides the output beside name and version, as JSON; it enters the key of each batch."""
        return {}

    @abstractmethod
    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        """Yield the rows that go on, in an order that depends on `rows` alone; the others to the context."""
