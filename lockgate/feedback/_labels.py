"""Review files that grow: each label is on disk before the next exchange is shown, and can be undone."""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lockgate.durable import open_atomic
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, PromptPrints
from lockgate.feedback._reviews import Verdict, exchange_key, read_lines

_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Label:
    """One line of a review file, without the exchange.

    Attributes:
        verdict: what the reviewer says.
        category: id of a category, if one was named.
        seconds: how long the reviewer took, if it was measured.
    """

    verdict: Verdict
    category: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What review files are about.

    Attributes:
        ids: ids of all reviewed exchanges.
        prompts: fingerprints of the prompts of exchanges that the lines hold as a whole.
        harmful: ids of the exchanges that all of their reviews call harmful.
    """

    ids: frozenset[str]
    prompts: PromptPrints
    harmful: frozenset[str] = frozenset()


def read_reviewed(paths: Iterable[Path]) -> Reviewed:
    """Read which exchanges review files are about, without a constitution.

    Raises:
        ExchangeError: a file is missing, or a line is not a review (as `FILE:LINE: FIELD: ...`).
    """
    said, given = defaultdict[str, set[Verdict]](set), list[Exchange]()
    for path in paths:
        if not path.is_file():
            raise ExchangeError(f"{path}: no such file")
        for _, line, exchange in read_lines(path):
            said[str(line.id) if exchange is None else exchange.id].add(line.verdict)
            given += [] if exchange is None else [exchange]
    harmful = frozenset(name for name, verdicts in said.items() if verdicts == {"harmful"})
    return Reviewed(frozenset(said), PromptPrints.of(given), harmful)


class ReviewFile:
    """A review file (JSON lines) to append to. Use it in a `with` block; it is locked for one process.

    A line is written in one piece and flushed to the disk before `add` returns. `undo` replaces the file by
    one without the line. So the file is whole whenever the process ends. `read_feedback` reads it.

    Args:
        path: the file. It is made if it does not exist. A last line that a crash cut off is removed.

    Raises:
        ConfigError: the name doesn't end in `.jsonl`, its folder does not exist, or another process has the
            file.
        ExchangeError: a line is not a review (as `FILE:LINE: FIELD: ...`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix != _SUFFIX:
            raise ConfigError(f"output: expected a name that ends in {_SUFFIX}, since lines are appended")
        if not path.parent.is_dir():
            raise ConfigError(f"output: the folder {path.parent} does not exist; make it first")
        self._file = self._open()
        try:
            self.mended = self._mend()
            self._lines = [
                (_names(line.id, own), Label(line.verdict, line.category, line.seconds))
                for _, line, own in read_lines(path)
            ]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give the lock back."""
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._lines)

    def find(self, exchange: Exchange) -> Label | None:
        """Return the last label of an exchange, or None. Equal turns are one exchange."""
        place = self._place(exchange)
        return None if place is None else self._lines[place][1]

    def places(self, exchanges: Iterable[Exchange]) -> list[int | None]:
        """Return for each exchange the number of its last line, from 0, or None."""
        last = {name: place for place, (names, _) in enumerate(self._lines) for name in names}
        found = ([last[name] for name in _names(None, row) if name in last] for row in exchanges)
        return [max(own, default=None) for own in found]

    def add(self, exchange: Exchange, label: Label) -> None:
        """Append a label. The line is on the disk when this returns.

        Raises:
            OSError: the line can't be written. The file is as before.
        """
        line: dict[str, object] = {"verdict": label.verdict}
        if label.category is not None:
            line["category"] = label.category
        if label.seconds is not None:
            line["seconds"] = label.seconds
        line["exchange"] = exchange.to_dict()
        content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, content)
            if written < len(content):
                raise OSError(28, os.strerror(28), str(self.path))
            os.fsync(self._file)
        except BaseException:
            # An interrupt may come between writing and noting the line; then the line doesn't count.
            os.ftruncate(self._file, size)
            raise
        self._lines.append((_names(None, exchange), label))

    def undo(self, exchange: Exchange) -> Label | None:
        """Remove the last label of an exchange and return it; None if there is none."""
        place = self._place(exchange)
        if place is None:
            return None
        lines = self.path.read_bytes().splitlines(keepends=True)
        wanted = [number for number, line in enumerate(lines) if line.strip()]
        del lines[wanted[place]]
        with open_atomic(self.path) as file:
            file.write(b"".join(lines))
        old, self._file = self._file, self._open()
        os.close(old)
        return self._lines.pop(place)[1]

    def _place(self, exchange: Exchange) -> int | None:
        return self.places([exchange])[0]

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ConfigError(f"output: another process labels into {self.path}; name another file") from None
        return file

    def _mend(self) -> bool:
        """Remove a last line without an end that is no JSON, or end it. Return whether one was removed."""
        content = self.path.read_bytes()
        last = content[content.rfind(b"\n") + 1 :]
        if not last.strip():
            return False
        try:
            json.loads(last)
        except ValueError:
            os.ftruncate(self._file, len(content) - len(last))
            return True
        os.write(self._file, b"\n")
        return False


def _names(identity: str | None, exchange: Exchange | None) -> frozenset[str]:
    """Return the names under which an exchange is known: its id, and the key of its normalised turns."""
    if exchange is None:
        return frozenset([f"id/{identity}"])
    return frozenset([f"id/{exchange.id}", f"turns/{exchange_key(exchange)}"])
