"""The folder in which a build works: what each finished step left there, keyed by what it was made from."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from lockgate._version import __version__
from lockgate.durable import Mark, hash_json, hash_path, lock_folder, open_atomic
from lockgate.errors import ConfigError

_FORMAT = 1
_STEPS = "steps"


class BuildFolder:
    """Steps with completion marks. A step runs again when its key or one of its files is another.

    Args:
        clock: seconds, never falling.

    Raises:
        ConfigError: the folder holds something else.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._asked: dict[str, None] = {}
        if path.exists() and not (path / _STEPS).is_dir() and any(path.iterdir()):
            raise ConfigError(f"{path}: holds something else; name another folder with --work")
        (path / _STEPS).mkdir(parents=True, exist_ok=True)

    def lock(self) -> AbstractContextManager[None]:
        """One build at a time."""
        return lock_folder(
            self.path,
            ConfigError(
                f"{self.path}: another build works in this folder; wait for it or name another with --work"
            ),
        )

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        make: Callable[[], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """What the step of this name returned for these inputs: from its mark, or by running it.

        Args:
            inputs: all that decides the step, as JSON; name files by their hashes.
            outputs: files and folders that it leaves, relative to this folder.
            make: runs it; returns JSON. Whatever it needs to go on after a kill is its own affair.
        """
        key = hash_json({"format": _FORMAT, "version": __version__, "step": name, **inputs})
        self._asked[name] = None
        if (found := self.find(name, key, outputs)) is not None:
            return found
        mark = self.path / _STEPS / f"{name}.json"
        mark.unlink(missing_ok=True)
        with self._attempt(name, key) as spent:
            content = json.loads(json.dumps(make()))
            files = {output: hash_path(self.path / output) for output in outputs}
            Mark(key, files, content, spent()).write(mark)
        return dict(content)

    @contextmanager
    def _attempt(self, name: str, key: str) -> Iterator[Callable[[], dict[str, Any]]]:
        """Time a step together with earlier attempts at the same, of which a note is left while it runs."""
        note = self.path / _STEPS / f"{name}.attempt"
        before = _read_object(note)
        if before.get("key") != key:
            before = {}
        seconds, lost = before.get("seconds", 0.0), before.get("lost", 0) + bool(before.get("running"))
        started = self._clock()

        def write(running: bool) -> None:
            spent = seconds if running else seconds + self._clock() - started
            with open_atomic(note) as file:
                state = {"key": key, "seconds": spent, "lost": lost, "running": running}
                file.write(json.dumps(state).encode())

        write(running=True)
        try:
            yield lambda: {"seconds": round(seconds + self._clock() - started, 1), "lost": lost}
        except BaseException:
            # Without room for it this attempt counts as one that was killed.
            with suppress(OSError):
                write(running=False)
            raise
        note.unlink(missing_ok=True)

    def find(self, name: str, key: str | None, outputs: Sequence[str]) -> dict[str, Any] | None:
        """What a finished step returned, if it is of this key (None: of any) and its files are unchanged."""
        mark = Mark.read(self.path / _STEPS / f"{name}.json")
        if mark is None or (key is not None and mark.key != key) or not mark.files.keys() >= set(outputs):
            return None
        return dict(mark.content) if mark.stands(self.path) else None

    def seconds(self) -> dict[str, float]:
        """How long each step took that this run asked for, whichever run did it: what its result rests on.

        Attempts that an error or an interrupt ended count, those of killed processes don't (`lost_attempts`).
        Marks of steps that only earlier builds of the folder asked for don't count.
        """
        return {name: float(mark["seconds"]) for name, mark in self._marks() if "seconds" in mark}

    def lost_attempts(self) -> dict[str, int]:
        """Attempts at these steps that a kill ended, so that nobody knows how long they took."""
        return {name: int(mark["lost"]) for name, mark in self._marks() if mark.get("lost")}

    def _marks(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, _read_object(self.path / _STEPS / f"{name}.json")) for name in sorted(self._asked)]

    def write_json(self, name: str, value: object) -> Path:
        """A file of JSON, in place when it is whole."""
        with open_atomic(self.path / name) as file:
            file.write(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n")
        return self.path / name

    def remove(self, name: str) -> None:
        """Take a folder away, if it is there."""
        shutil.rmtree(self.path / name, ignore_errors=True)


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is none to read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
