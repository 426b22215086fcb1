"""Folders of work: locked for one process, claimed before they are filled, replaced as a whole."""

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
# A reader may restore the old folder between the two moves of a replacement, but not this often.
_MOVES = 10


@contextmanager
def lock_folder(folder: Path, busy: LockgateError) -> Iterator[None]:
    """Lock a folder for this process. The folder is made if it does not exist.

    The system drops the lock when the process ends, also if it is killed.

    Args:
        folder: the folder.
        busy: the error to raise if another process has the folder.
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
        # The folder may have been removed since the file was opened. Such a lock keeps nobody out.
        if place.exists() and os.path.samestat(place.stat(), os.fstat(file.fileno())):
            return file
        file.close()


@contextmanager
def hold_folder(folder: Path, busy: LockgateError) -> Iterator[None]:
    """Lock a folder that is there, for this call, and leave nothing in it.

    The system drops the lock when the process ends, also if it is killed.

    Args:
        busy: the error to raise if the folder is held already.

    Raises:
        ConfigError: there is no such folder.
    """
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or 'not readable'}") from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield
    finally:
        os.close(held)


@contextmanager
def scratch_folder(path: Path, owner: str, *, key: object = None) -> Iterator[Path]:
    """Make a folder of scratch files. It is removed when the block ends, and stays if the block fails.

    An interrupted run of the same owner may have left files. They stay if the key is the same, and are
    removed otherwise.

    Args:
        path: the folder.
        owner: name of the work that keeps its files there. Errors show it.
        key: everything that decides the content of the files, as JSON.

    Raises:
        ConfigError: `path` is a file, holds files that `owner` did not make, or is in use.
    """
    _check_owner(path, owner)
    busy = ConfigError(f"{path}: another run works in this folder; wait for it or take another place")
    with lock_folder(path, busy):
        _claim(path, owner, key)
        yield path
        _discard(path)


def _check_owner(path: Path, owner: str) -> None:
    """Refuse a folder that holds other files. It is removed as a whole later."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigError(f"{path}: not a folder, and {owner} needs one there; move it away")
    if not path.is_dir() or all(_is_ours(entry.name) for entry in path.iterdir()):
        return
    marker = path / _MARKER
    if not marker.is_file() or marker.read_text(encoding="utf-8").partition("\n")[0] != owner:
        raise ConfigError(
            f"{path}: holds other files, and {owner} would remove them with its own; move them away"
        )


def _is_ours(name: str) -> bool:
    """Whether a name is the lock or a part of the marker. A run that is killed early leaves these."""
    return name == _LOCK or name.startswith(f".{_MARKER}.")


def _claim(path: Path, owner: str, key: object) -> None:
    marker = path / _MARKER
    wanted = owner if key is None else f"{owner}\n{json.dumps(key, sort_keys=True)}"
    if marker.is_file():
        if marker.read_text(encoding="utf-8") == wanted:
            return
        # The marker is replaced last. If the process is killed before, the folder still has an owner.
        for entry in path.iterdir():
            if entry.name not in (_LOCK, _MARKER):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    with open_atomic(marker) as file:
        file.write(wanted.encode())


def _discard(path: Path) -> None:
    """Remove a folder in one move. A half-removed folder would belong to nobody."""
    gone = _beside(path, "gone")
    shutil.rmtree(gone, ignore_errors=True)
    if path.is_dir():
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Make a new folder that replaces `target` when the block ends. It is removed if the block fails."""
    part = part_of(target)
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(made: Path, target: Path) -> None:
    """Move a folder to `target` and remove the old folder there.

    This takes two moves: the old folder out, the new one in. If the process is killed between them, the old
    folder lies beside its place. `restore_folder` brings it back.

    Raises:
        OSError: the folder can't be moved. The old folder is in its place again.
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
    """Bring back the old folder if a replacement was killed between its two moves. Else do nothing."""
    old = _beside(target, "old")
    if old.is_dir() and not os.path.lexists(target):
        old.rename(target)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
