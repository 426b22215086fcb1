"""Commands as real processes, and what they leave running."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MARK = "LOCKGATE_TEST_MARK"


def _environment(**own: str) -> dict[str, str]:
    own_modules = [str(ROOT / "tests" / name) for name in ("", "assembly", "synthesis")]
    paths = [str(ROOT), *own_modules, os.environ.get("PYTHONPATH", "")]
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **own}


class Preloaded:
    """The process of `preloaded.py`. Commands start as forks of it, without its seconds of imports."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "preloaded.py")],
            env={**os.environ, **_environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> int | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer: int | None = json.loads(stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=30)


class Fork:
    """A fork of the preloaded process, as far as tests use a `Popen`."""

    def __init__(self, preloaded: Preloaded, start: dict[str, Any]) -> None:
        self._preloaded = preloaded
        self.pid = preloaded.ask(start=start) or 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._preloaded.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < until, "still running"
            time.sleep(0.02)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Command:
    """A Python process in a session of its own. All that it starts carries a mark or is in the session."""

    def __init__(
        self,
        *arguments: Any,
        cwd: Path,
        preloaded: Preloaded | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python ARGUMENTS`, or `python -m ARGUMENTS` as a fork of a preloaded process."""
        self.mark = secrets.token_hex(8)
        self.errors, self.output = cwd / f"{self.mark}.txt", cwd / f"{self.mark}.out"
        words, environment = [*map(str, arguments)], _environment(**{_MARK: self.mark, **(variables or {})})
        self.process: Fork | subprocess.Popen[bytes]
        if preloaded is not None:
            start = {"arguments": words, "environment": environment, "cwd": str(cwd)}
            places = {"errors": str(self.errors), "output": str(self.output)}
            self.process = Fork(preloaded, {**start, **places})
            return
        with self.errors.open("wb") as errors, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=cwd,
                env={**os.environ, **environment},
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def alive(self) -> list[int]:
        """Running processes with the mark or in the session, the command's own included."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if self._owns(entry)]

    def wait_until(self, reached: Callable[[], bool], seconds: float = 120) -> None:
        """Wait, while the command runs."""
        until = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until, "nothing happened"
            time.sleep(0.03)

    def wait_for_files(self, folder: Path, pattern: str, number: int) -> None:
        """Wait until so many are there."""
        self.wait_until(lambda: len(list(folder.glob(pattern))) >= number)

    def first_line(self) -> str:
        """Wait for the first line on standard output, and return it with its end."""
        self.wait_until(lambda: self.output.exists() and "\n" in self.output.read_text())
        return self.output.read_text().splitlines(keepends=True)[0]

    def send(self, number: signal.Signals) -> None:
        """As a terminal does with Ctrl-C: to all. Any other signal goes to the command alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def finish(self, seconds: float = 300) -> None:
        code = self.process.wait(seconds)
        assert code == 0, self.errors.read_text()

    def assert_nothing_left(self, seconds: float = 30) -> None:
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

    def _owns(self, entry: Path) -> bool:
        if not entry.name.isdigit():
            return False
        try:
            # Behind the name, which is in brackets: state, parent, group, session.
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            marked = f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
        except OSError:
            return False
        return state not in "ZX" and (marked or int(session) == self.process.pid)
