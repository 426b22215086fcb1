"""Spill files of ended processes: where they are, and taking over their records."""

import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from lockgate.decisions._appender import Appender
from lockgate.decisions._options import LogOptions
from lockgate.decisions._spill import left_behind, read_spill
from lockgate.durable import home
from lockgate.errors import DecisionLogError

_AT_ONCE = 512


def spill_place(options: LogOptions) -> Path:
    """Return a path for the spill file of this process. It begins as those of other processes do."""
    return _folder(options) / f"{_stem(options)}{os.getpid()}-{secrets.token_hex(4)}"


def spill_files(path: Path) -> list[Path]:
    """Return the files beside a database of SQLite with records that are not in it yet."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.spill.*"))


def adopt(appender: Appender, place: Path) -> Iterator[str]:
    """Write the records that ended processes have left, remove their files, and yield a line about each.

    Args:
        place: the spill file of this process.

    Raises:
        DecisionLogError: the records can't be written. The file stays.
    """
    stem = place.name.rpartition(".")[0] + "."
    if not place.parent.is_dir():
        return
    for path, _ in left_behind(place.parent, stem):
        try:
            drafts, broken = read_spill(path)
        except OSError as error:
            raise DecisionLogError(f"{path}: {error.strerror or 'not readable'}") from None
        for start in range(0, len(drafts), _AT_ONCE):
            appender.append_missing(drafts[start : start + _AT_ONCE])
        path.unlink(missing_ok=True)
        half = f", {broken} line(s) were not whole" if broken else ""
        yield f"{len(drafts)} record(s) taken over from {path.name}{half}"


def _folder(options: LogOptions) -> Path:
    path = options.place.path
    return options.spill or (home() if path is None else path.absolute().parent)


def _stem(options: LogOptions) -> str:
    place = options.place
    if place.path is not None:
        return f"{place.path.name}.spill."
    return f"decisions-{hashlib.sha256(str(place).encode()).hexdigest()[:12]}.spill."
