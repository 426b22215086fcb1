"""Completion marks: what says that a piece of work is done, for which input, and what came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lockgate.durable._files import hash_path, open_atomic

_OWN = ("key", "files", "content")


@dataclass(frozen=True, slots=True)
class Mark:
    """A file of JSON that is written last, so that a kill never leaves one that says too much.

    Remove the old mark before its files change: its key may be asked for again.

    Attributes:
        key: all that decided the work, as JSON.
        files: hash of each file or folder that it left, by its name in the folder of the work.
        content: what it returned, as JSON.
        notes: what else is worth keeping; it decides nothing.
    """

    key: Any
    files: Mapping[str, str | None] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The mark in a file; None where there is none, or something else."""
        try:
            found = json.loads(path.read_bytes())
            notes = {name: value for name, value in found.items() if name not in _OWN}
            return cls(found["key"], dict(found["files"]), dict(found["content"]), notes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        """Put the mark in place, whole.

        Raises:
            ExchangeError: the folder does not exist.
        """
        content = {"key": self.key, "files": dict(self.files), **self.notes, "content": dict(self.content)}
        with open_atomic(path) as file:
            file.write(json.dumps(content, ensure_ascii=False).encode())

    def stands(self, folder: Path) -> bool:
        """Whether all files are in `folder` as the work left them."""
        return all(hash_path(folder / name) == digest for name, digest in self.files.items())
