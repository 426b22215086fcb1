"""The finished batches of a step. Each has a file of rows, a file of rejected rows and a mark."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, overload

from lockgate.durable import Mark, open_atomic


@dataclass(frozen=True, slots=True)
class Batched:
    """The counts of a finished batch."""

    rows_in: int
    rows_out: int
    reasons: dict[str, int]
    counters: dict[str, int]


class _Sink:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.count = 0

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._hash.update(line)
        self.count += 1

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


# Writes rows and rejected rows through its two arguments; returns rows read, reasons and counters.
Fill = Callable[
    [Callable[[bytes], None], Callable[[bytes], None]], tuple[int, dict[str, int], dict[str, int]]
]


class Shards(Sequence[bytes]):
    """The folder of one step. As a sequence it holds the lines of all rows in order, read from disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = 0
        self._places: tuple[array[int], array[int]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):
            part.unlink()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._lines("rows")

    def __len__(self) -> int:
        return len(self._index()[0])

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        """Return one line. Each call opens a file."""
        if isinstance(place, slice):
            return [self[index] for index in range(len(self))[place]]
        numbers, offsets = self._index()
        with self._path(numbers[place], "rows").open("rb") as file:
            file.seek(offsets[place])
            return file.readline()

    def rejected(self) -> Iterator[bytes]:
        """Yield the lines of the rejected rows."""
        yield from self._lines("rejected")

    def find(self, number: int, key: str) -> Batched | None:
        """Return the counts of a batch if it was finished with this key and its files are unchanged."""
        mark = Mark.read(self._path(number, "done"))
        if mark is None or mark.key != key or not mark.stands(self.folder):
            return None
        try:
            return Batched(**mark.content)
        except TypeError:
            return None

    def write(self, number: int, key: str, fill: Fill) -> Batched:
        """Write a batch's files, then its mark. So a kill leaves no mark without its files."""
        done, kept, dropped = (self._path(number, kind) for kind in ("done", "rows", "rejected"))
        # The old mark goes first: its key may be asked for again, and the new files would not match it.
        done.unlink(missing_ok=True)
        with open_atomic(kept) as rows_file, open_atomic(dropped) as rejected_file:
            rows, rejected = _Sink(rows_file), _Sink(rejected_file)
            rows_in, reasons, counters = fill(rows.write, rejected.write)
        made = Batched(rows_in, rows.count, reasons, counters)
        Mark(key, {kept.name: rows.sha256, dropped.name: rejected.sha256}, asdict(made)).write(done)
        return made

    def trim(self, count: int) -> None:
        """Set the number of batches, and remove batches of an earlier, longer run."""
        self.batches, self._places = count, None
        for file in self.folder.glob("*.jsonl*"):
            number = file.name.split(".")[0]
            if number.isdigit() and int(number) >= count:
                file.unlink()

    def _index(self) -> "tuple[array[int], array[int]]":
        """Return file number and offset of each line, 12 bytes a row."""
        if self._places is None:
            self._places = array("I"), array("Q")
            for number in range(self.batches):
                offset = 0
                with self._path(number, "rows").open("rb") as file:
                    for line in file:
                        self._places[0].append(number)
                        self._places[1].append(offset)
                        offset += len(line)
        return self._places

    def _path(self, number: int, kind: str) -> Path:
        ending = {"rows": "jsonl", "rejected": "rejected.jsonl", "done": "jsonl.done"}[kind]
        return self.folder / f"{number:06d}.{ending}"

    def _lines(self, kind: str) -> Iterator[bytes]:
        for number in range(self.batches):
            with self._path(number, kind).open("rb") as file:
                yield from file


def write_lines(lines: Iterable[bytes]) -> Fill:
    """Return a `Fill` that writes these lines as rows."""

    def fill(
        write: Callable[[bytes], None], reject: Callable[[bytes], None]
    ) -> tuple[int, dict[str, int], dict[str, int]]:
        count = 0
        for line in lines:
            write(line)
            count += 1
        return count, {}, {}

    return fill
