"""Folders of work: one process each, claimed before they are filled, replaced in one move."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lockgate.durable._files import open_atomic, part_of
from lockgate.errors import ConfigError, LockgateError

_LOCK, _MARKER = ".lock", ".lockgate"
# Somebody who reads and restores may come between the two moves of a replacement, but not this often.
_MOVES = 10


@contextmanager
def lock_folder(folder: Path, busy: LockgateError) -> Iterator[None]:
    """Have a folder to oneself; it is made if it isn't there.

    The system drops the lock when the process ends, however it ends.

    Args:
        busy: raised when another process has the folder.
    """
    with _locked(folder, busy):
        yield


def _locked(folder: Path, busy: LockgateError) -> TextIO:
    place = folder / _LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = place.open("a")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise busy from None
        # Its owner may have removed the folder since it was opened: such a lock keeps nobody out.
        if place.exists() and os.path.samestat(place.stat(), os.fstat(file.fileno())):
            return file
        file.close()


@contextmanager
def scratch_folder(path: Path, owner: str, *, key: object = None) -> Iterator[Path]:
    """A folder of scratch files that is removed when the block ends, and stays where the block fails.

    What an interrupted run of the same owner left is taken over if it has the same key, and goes otherwise.

    Args:
        owner: the work that keeps its files there, in the words of messages.
        key: all that decides what the files hold, as JSON.

    Raises:
        ConfigError: `path` is a file, a folder with content that `owner` didn't make, or in use.
    """
    _check_owner(path, owner)
    busy = ConfigError(f"{path}: another run works in this folder; wait for it or take another place")
    with lock_folder(path, busy):
        _claim(path, owner, key)
        yield path
        _discard(path)


def _check_owner(path: Path, owner: str) -> None:
    """Such a folder is removed as a whole later, so one that holds anybody else's files is refused."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigError(f"{path}: is no folder, and {owner} keeps what it reads there; move it away")
    if not path.is_dir() or all(_is_ours(entry.name) for entry in path.iterdir()):
        return
    marker = path / _MARKER
    if not marker.is_file() or marker.read_text(encoding="utf-8").partition("\n")[0] != owner:
        raise ConfigError(
            f"{path}: holds other files, and {owner} would remove them with its own; move them away"
        )


def _is_ours(name: str) -> bool:
    """A run that was killed while it claimed a folder leaves the lock and a part of the marker."""
    return name == _LOCK or name.startswith(f".{_MARKER}.")


def _claim(path: Path, owner: str, key: object) -> None:
    marker = path / _MARKER
    wanted = owner if key is None else f"{owner}\n{json.dumps(key, sort_keys=True)}"
    if marker.is_file():
        if marker.read_text(encoding="utf-8") == wanted:
            return
        # The marker goes last: killed in between, the folder is still known as the owner's.
        for entry in path.iterdir():
            if entry.name not in (_LOCK, _MARKER):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    with open_atomic(marker) as file:
        file.write(wanted.encode())


def _discard(path: Path) -> None:
    """Take a folder away in one move: one that is half removed would belong to nobody."""
    gone = _beside(path, "gone")
    shutil.rmtree(gone, ignore_errors=True)
    if path.is_dir():
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` when the block ends, and leaves none when it fails."""
    part = part_of(target)
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(made: Path, target: Path) -> None:
    """Move a folder to `target`; what lies there goes.

    Two moves replace a folder, the old one out and the new one in. Killed between them, a process leaves the
    old one beside its place, and `restore_folder` brings it back.

    Raises:
        OSError: it can't be moved; what was there is there again.
    """
    restore_folder(target)
    for last in range(_MOVES, 0, -1):
        try:
            made.rename(target)
            break
        except OSError:
            if last == 1 or not target.is_dir():
                restore_folder(target)
                raise
        old = _beside(target, "old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    _discard(_beside(target, "old"))


def restore_folder(target: Path) -> None:
    """Bring back a folder whose replacement was killed between its two moves. Otherwise nothing happens."""
    old = _beside(target, "old")
    if old.is_dir() and not os.path.lexists(target):
        old.rename(target)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
