"""Commands as real processes, and what they leave running."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MARK = "LOCKGATE_TEST_MARK"


class Command:
    """A Python process in a session of its own; it and all that it starts carry a mark."""

    def __init__(self, *arguments: Any, cwd: Path) -> None:
        self.mark = secrets.token_hex(8)
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        self.errors = cwd / f"{self.mark}.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=cwd,
                env={
                    **os.environ,
                    _MARK: self.mark,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def alive(self) -> list[int]:
        """Processes with the mark, the command's own included."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if self._is_marked(entry)]

    def wait_for_files(self, folder: Path, pattern: str, number: int, seconds: float = 120) -> None:
        """Until so many are there."""
        until = time.monotonic() + seconds
        while len(list(folder.glob(pattern))) < number:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until, "nothing happened"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """As a terminal does with Ctrl-C: to all. Any other signal goes to the command alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def finish(self, seconds: float = 300) -> None:
        code = self.process.wait(seconds)
        assert code == 0, self.errors.read_text()

    def assert_nothing_left(self, seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while left := self.alive():
            assert time.monotonic() < until, left
            time.sleep(0.05)

    def close(self) -> None:
        """End whatever a failed test has left."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)

    def _is_marked(self, entry: Path) -> bool:
        if not entry.name.isdigit():
            return False
        try:
            return f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
        except OSError:
            return False
