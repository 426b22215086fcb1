"""Commands that are stopped, and the same commands run undisturbed."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import Command

from lockgate.cli import main

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
Start = Callable[..., Command]


def stop(command: Command, number: signal.Signals, workers: int = 0) -> None:
    """Stop a command that works, with so many processes besides its own."""
    # Its own, the workers and the tracker that `multiprocessing` runs beside them.
    assert len(command.alive()) >= 1 + workers
    command.send(number)
    assert command.process.wait(30) == CODES[number]
    command.assert_nothing_left()
    said = command.errors.read_text()
    assert "Traceback" not in said, said


class Finished:
    """The files that a command leaves as it goes on. A file is written once, whatever stops the command."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self.folder, self.pattern = folder, pattern
        self.stamps: dict[Path, int] = {}

    def stop_at_next(self, command: Command, number: signal.Signals, workers: int = 0) -> None:
        """Stop the command when there is a file more than after the last stop."""
        command.wait_for_files(self.folder, self.pattern, len(self.stamps) + 1)
        stop(command, number, workers)
        self.look()

    def look(self) -> None:
        now = {path: path.stat().st_mtime_ns for path in self.folder.glob(self.pattern)}
        assert self.stamps.items() <= now.items()
        self.stamps = now


def run_here(folder: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[Any]) -> None:
    """The same command in this process, undisturbed."""
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0
