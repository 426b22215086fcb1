"""A build's working folder: the files of each finished step, with a mark that names the step's inputs."""

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
    """A folder of steps with completion marks. A step runs again when its key or one of its files changes.

    Args:
        path: the folder; made if it is missing.
        clock: a function that returns seconds and never goes back.

    Raises:
        ConfigError: The folder holds something else.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._asked: dict[str, None] = {}
        if path.exists() and not (path / _STEPS).is_dir() and any(path.iterdir()):
            raise ConfigError(f"{path}: holds something else; name another folder with --work")
        (path / _STEPS).mkdir(parents=True, exist_ok=True)

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder for one build at a time. Raises ConfigError if another build holds it."""
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
        """Return a step's result for these inputs. Take it from the mark, or run the step.

        Args:
            name: the step's name.
            inputs: everything that decides the result, as JSON; files by their hashes.
            outputs: files and folders that the step leaves, relative to this folder.
            make: runs the step and returns JSON. It must itself go on after a kill.
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
        """Time a step together with earlier attempts at it. A note in the folder counts them."""
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
            # If the disk has no room for the note, this attempt counts as a killed one.
            with suppress(OSError):
                write(running=False)
            raise
        note.unlink(missing_ok=True)

    def find(self, name: str, key: str | None, outputs: Sequence[str]) -> dict[str, Any] | None:
        """Return a finished step's result if its key matches (None: any key) and its files are unchanged."""
        mark = Mark.read(self.path / _STEPS / f"{name}.json")
        if mark is None or (key is not None and mark.key != key) or not mark.files.keys() >= set(outputs):
            return None
        return dict(mark.content) if mark.stands(self.path) else None

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step that this run used, in whichever run the step was done.

        Attempts that ended with an error or an interrupt count. Attempts of killed processes don't
        (`lost_attempts`), nor do steps that only earlier builds of the folder used.
        """
        return {name: float(mark["seconds"]) for name, mark in self._marks() if "seconds" in mark}

    def lost_attempts(self) -> dict[str, int]:
        """Return how many attempts at each of these steps were killed. Their time is unknown."""
        return {name: int(mark["lost"]) for name, mark in self._marks() if mark.get("lost")}

    def _marks(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, _read_object(self.path / _STEPS / f"{name}.json")) for name in sorted(self._asked)]

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file. It appears when it is complete. Return its path."""
        with open_atomic(self.path / name) as file:
            file.write(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n")
        return self.path / name

    def remove(self, name: str) -> None:
        """Remove a folder inside this one, if it exists."""
        shutil.rmtree(self.path / name, ignore_errors=True)


def _read_object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, or an empty one if the file has none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
