"""A link that names the guard of a server, and the history of what it named."""

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import ConfigError
from lockgate.guards import read_bundle

Action = Literal["found", "promote", "back"]


class Entry(BaseModel):
    """What the link named from a time on.

    Attributes:
        action: `promote` and `back` come from the command. `found` was there without it.
        guard: the folder of the bundle, without links.
        sha256: hash of its `guard.yaml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str
    action: Action
    guard: str
    name: str
    sha256: str


class _History(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    entries: list[Entry] = []


class GuardLink:
    """A symbolic link to a bundle. Its history lies beside it, in LINK.history.

    Args:
        path: the link. It need not exist.

    Raises:
        ConfigError: something else is there, or the history is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.with_name(f"{path.name}.history")
        if path.exists() and not path.is_symlink():
            kind = "folder" if path.is_dir() else "file"
            raise ConfigError(
                f"--as {path}: is a {kind}, no link; move it elsewhere and promote it from there"
            )
        if not path.parent.is_dir():
            raise ConfigError(f"--as {path}: its folder does not exist; make it first")
        self.entries = self._read()

    @property
    def target(self) -> Path | None:
        """The folder that the link names, without links; None if there is no link."""
        return self.path.resolve() if self.path.is_symlink() else None

    def promote(self, guard: Path) -> Entry:
        """Let the link name a bundle. Raises GuardError: it is none."""
        entry = _entry("promote", guard.resolve())
        self._move([*self._found(), entry])
        return entry

    def back(self) -> Entry:
        """Let the link name the guard before the one that it names.

        Raises:
            ConfigError: there is none before it, or its bundle has changed.
            GuardError: its bundle is damaged or gone.
        """
        found = self._found()
        names = _stack([*self.entries, *found])
        if len(names) < 2:
            raise ConfigError(f"--back: {self._file} knows no guard before the one that {self.path} names")
        before = names[-2]
        entry = _entry("back", Path(before.guard))
        if entry.sha256 != before.sha256:
            raise ConfigError(
                f"--back: {before.guard} is not the guard any more that it was (SHA-256 "
                f"{before.sha256[:12]}…, now {entry.sha256[:12]}…); promote a guard by its folder"
            )
        self._move([*found, entry])
        return entry

    def _found(self) -> list[Entry]:
        """Return an entry for what the link names, if its history does not say so."""
        target, names = self.target, _stack(self.entries)
        if target is None or (names and names[-1].guard == str(target)):
            return []
        return [_entry("found", target)] if target.is_dir() else []

    def _move(self, more: Sequence[Entry]) -> None:
        # If the process ends between both steps, the next call finds a link that the history does not name.
        self.entries = [*self.entries, *more]
        with open_atomic(self._file) as file:
            file.write((_History(entries=self.entries).model_dump_json(indent=1) + "\n").encode())
        folder = self.path.parent.resolve()
        part = folder / f".{self.path.name}.{secrets.token_hex(4)}"
        part.symlink_to(os.path.relpath(self.entries[-1].guard, folder), target_is_directory=True)
        part.replace(self.path)

    def _read(self) -> list[Entry]:
        try:
            return _History.model_validate_json(self._file.read_bytes()).entries
        except FileNotFoundError:
            return []
        except ValidationError:
            raise ConfigError(f"{self._file}: is no history of a link; move it away") from None


def _stack(entries: Sequence[Entry]) -> list[Entry]:
    """Return the guards that one can go back to, and last the one that the link names."""
    names: list[Entry] = []
    for entry in entries:
        if entry.action == "back":
            del names[-1:]
        else:
            names.append(entry)
    return names


def _entry(action: Action, folder: Path) -> Entry:
    record = read_bundle(folder).record
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    digest = file_sha256(folder / "guard.yaml")
    return Entry(time=now, action=action, guard=str(folder), name=record.name, sha256=digest)
