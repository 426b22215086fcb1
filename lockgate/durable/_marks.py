"""Marks: small files that say that a piece of work is done, for which input, and with which result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lockgate.durable._files import hash_path, open_atomic

_OWN = ("key", "files", "content")


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
