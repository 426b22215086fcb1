"""Files that are written as a whole or not at all, hashes of files and values, and marks of finished work."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from lockgate.errors import ExchangeError

_OWN = ("key", "files", "content")


@contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends. It leaves no trace if the block fails.

    Raises:
        ExchangeError: the folder does not exist.
    """
    with atomic_path(path) as part, part.open("xb") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write a file under, for libraries that open files by themselves.

    The file replaces `path` when the block ends. It leaves no trace if the block fails.

    Raises:
        ExchangeError: the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ExchangeError(f"{target}: the folder {target.parent} does not exist; make it first")
    part = part_of(target)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Return a hidden name beside `target` that no other process uses."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hex.

    Raises:
        ExchangeError: the file can't be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExchangeError(f"{path}: cannot be read ({type(error).__name__})") from None


def hash_json(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of a folder's file names and hashes. None: nothing can be read."""
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        return hash_json([[str(entry.relative_to(path)), hash_path(entry)] for entry in files])
    try:
        return file_sha256(path)
    except ExchangeError:
        return None


@dataclass(frozen=True, slots=True)
class Mark:
    """A JSON file that says that a piece of work is done.

    Write it after the work's files, so that a killed run never leaves a mark without them. Remove the old
    mark before its files change: a later run may ask for its key again.

    Attributes:
        key: everything that decided the work, as JSON.
        files: hash of each file or folder that the work left, by name in the work's folder.
        content: what the work returned, as JSON.
        notes: other facts. They decide nothing.
    """

    key: Any
    files: Mapping[str, str | None] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the mark in a file. Return None if the file is missing or is not a mark."""
        try:
            found = json.loads(path.read_bytes())
            notes = {name: value for name, value in found.items() if name not in _OWN}
            return cls(found["key"], dict(found["files"]), dict(found["content"]), notes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        """Write the mark as a whole.

        Raises:
            ExchangeError: the folder does not exist.
        """
        content = {"key": self.key, "files": dict(self.files), **self.notes, "content": dict(self.content)}
        with open_atomic(path) as file:
            file.write(json.dumps(content, ensure_ascii=False).encode())

    def stands(self, folder: Path) -> bool:
        """Whether all files in `folder` are as the work left them."""
        return all(hash_path(folder / name) == digest for name, digest in self.files.items())


def home() -> Path:
    """Return the folder for converted weights and decision logs.

    It is `LOCKGATE_HOME`, or else `lockgate` in the user's cache folder.
    """
    configured = os.environ.get("LOCKGATE_HOME")
    if configured:
        return Path(configured).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lockgate"
