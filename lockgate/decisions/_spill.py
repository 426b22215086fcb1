"""Records on disk while the database can't be written: a file beside it, for each process."""

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockgate.decisions._chain import Draft


class Spill:
    """A file of JSON lines that takes records which the database does not take.

    The file is made when it is needed, and locked as long as its process lives. Only its owner can read it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._descriptor: int | None = None
        self._torn = False

    def add(self, drafts: Sequence[Draft]) -> None:
        """Append records. On return they are on the disk. Raises OSError."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A full disk may have cut the last line short. The whole line is written again below it.
        data = (b"\n" if self._torn else b"") + b"".join(_encode(draft) for draft in drafts)
        self._torn = True
        done = os.write(self._descriptor, data)
        if done < len(data):
            raise OSError(28, "short write")
        os.fsync(self._descriptor)
        self._torn = False
        self.count += len(drafts)

    def read(self) -> list[Draft]:
        """Return the records in the file. Raises OSError."""
        return read_spill(self.path)[0] if self._descriptor is not None else []

    def clear(self) -> None:
        """Remove the file, since the database has all of its records."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)
        self._descriptor, self._torn, self.count = None, False, 0

    def release(self) -> None:
        """Leave the file for the next process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def left_behind(folder: Path, stem: str) -> Iterator[tuple[Path, int]]:
    """Yield the files of processes that have ended, with a descriptor that holds the file's lock.

    Args:
        stem: what the names of the files begin with.
    """
    for path in sorted(folder.glob(f"{_plain(stem)}*")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, descriptor
        except BlockingIOError:
            continue  # its process still writes
        finally:
            os.close(descriptor)


def read_spill(path: Path) -> tuple[list[Draft], int]:
    """Return the records in a file, and the number of lines that are not whole. Raises OSError."""
    found, broken = [], 0
    for line in path.read_bytes().splitlines():
        if not line:
            continue
        try:
            found.append(_decode(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            broken += 1
    return found, broken


def _encode(draft: Draft) -> bytes:
    fields = asdict(draft)
    if draft.content is not None:
        fields["content"] = base64.b64encode(draft.content).decode()
    return json.dumps(fields).encode() + b"\n"


def _decode(fields: dict[str, Any]) -> Draft:
    if fields["content"] is not None:
        fields["content"] = base64.b64decode(fields["content"], validate=True)
    return Draft(**fields)


def _plain(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)
