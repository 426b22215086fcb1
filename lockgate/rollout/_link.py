"""A link that names the guard of a server, and the history of what it named."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lockgate.durable import file_sha256, hold_folder, open_atomic
from lockgate.errors import ConfigError, ExchangeError
from lockgate.guards import read_bundle

Action = Literal["found", "promote", "back"]


class Entry(BaseModel):
    """What the link named from a time on.

    Attributes:
        action: `promote` and `back` come from the command or a page. `found` was there without them.
        guard: the folder of the bundle, without links.
        sha256: hash of its `guard.yaml`.
        by: who wanted it, if a page knows that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str
    action: Action
    guard: str
    name: str
    sha256: str
    by: str | None = None


class _History(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    entries: list[Entry] = []


Then = Callable[[Entry], None]


class GuardLink:
    """A symbolic link to a bundle. Its history lies beside it, in LINK.history.

    One change at a time: while one is under way, in whichever process, others are refused.

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
            raise ConfigError(f"{path}: is a {kind}, no link; move it elsewhere and promote it from there")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist; make it first")
        self.entries = self._read()

    @property
    def target(self) -> Path | None:
        """The folder that the link names, without links; None if there is no link."""
        return self.path.resolve() if self.path.is_symlink() else None

    @property
    def sha256(self) -> str | None:
        """The hash of the guard that the link names, as a server knows it; None if there is none."""
        try:
            return file_sha256(self.path / "guard.yaml")
        except ExchangeError:
            return None

    @property
    def before(self) -> Entry | None:
        """The guard that `back` goes to; None if there is none.

        Raises:
            GuardError: what the link names is no guard.
        """
        names = _stack([*self.entries, *self._found()])
        return names[-2] if len(names) > 1 else None

    def promote(
        self, guard: Path, *, sha256: str | None = None, by: str | None = None, then: Then = lambda _: None
    ) -> Entry:
        """Let the link name a bundle.

        Args:
            sha256: the hash that its `guard.yaml` must have; None takes any.
            by: who wants it.
            then: called when the link names the bundle, and still before anybody else may change the link. If
                it raises, link and history become again what they were.

        Raises:
            GuardError: it is no bundle.
            ConfigError: another change is under way, or the bundle has another hash.
        """
        with self._changing():
            entry = _entry("promote", guard.resolve(), by)
            if sha256 is not None and entry.sha256 != sha256:
                raise ConfigError(f"{guard}: is another guard by now; look at it again")
            self._move([*self._found(), entry], then)
        return entry

    def back(self, *, sha256: str | None = None, by: str | None = None, then: Then = lambda _: None) -> Entry:
        """Let the link name the guard before the one that it names. The arguments are those of `promote`.

        Raises:
            ConfigError: there is none before it, its bundle has changed or has another hash than `sha256`, or
                another change is under way.
            GuardError: its bundle is damaged or gone.
        """
        with self._changing():
            before = self.before
            if before is None:
                raise ConfigError(f"{self._file}: knows no guard before the one that {self.path} names")
            if sha256 is not None and before.sha256 != sha256:
                raise ConfigError(f"{self.path}: the guard before is another one by now; look at it again")
            entry = _entry("back", Path(before.guard), by)
            if entry.sha256 != before.sha256:
                raise ConfigError(
                    f"{before.guard}: is not the guard any more that it was (SHA-256 "
                    f"{before.sha256[:12]}…, now {entry.sha256[:12]}…); promote a guard by its folder"
                )
            self._move([*self._found(), entry], then)
        return entry

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep others from changing the link, and see what they have changed so far."""
        busy = ConfigError(f"{self.path}: another change is under way; try again when it is over")
        with hold_folder(self.path.parent, busy):
            self.entries = self._read()
            yield

    def _found(self) -> list[Entry]:
        """Return an entry for what the link names, if its history does not say so."""
        target, names = self.target, _stack(self.entries)
        if target is None or (names and names[-1].guard == str(target)):
            return []
        return [_entry("found", target, None)] if target.is_dir() else []

    def _move(self, more: Sequence[Entry], then: Then) -> None:
        known, named = self.entries, os.readlink(self.path) if self.path.is_symlink() else None
        # If the process ends between both steps, the next call finds a link that the history does not name.
        self._write([*known, *more])
        try:
            self._point(os.path.relpath(more[-1].guard, self.path.parent.resolve()))
            then(more[-1])
        except BaseException:
            self._point(named)
            self._write(known)
            raise

    def _write(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        if not entries:
            self._file.unlink(missing_ok=True)
            return
        with open_atomic(self._file) as file:
            file.write((_History(entries=self.entries).model_dump_json(indent=1) + "\n").encode())

    def _point(self, target: str | None) -> None:
        if target is None:
            self.path.unlink(missing_ok=True)
            return
        part = self.path.parent.resolve() / f".{self.path.name}.{secrets.token_hex(4)}"
        part.symlink_to(target, target_is_directory=True)
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


def _entry(action: Action, folder: Path, by: str | None) -> Entry:
    record = read_bundle(folder).record
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    digest = file_sha256(folder / "guard.yaml")
    return Entry(time=now, action=action, guard=str(folder), name=record.name, sha256=digest, by=by)
