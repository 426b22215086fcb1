"""Builds of new guards: one at a time, in a process of their own, and what became of them."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lockgate.durable import hold_folder, open_atomic
from lockgate.durable.processes import attended
from lockgate.errors import ConfigError, ExchangeError, LockgateError

State = Literal["running", "interrupted", "done", "worse", "failed", "cancelled"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORSE = 1
_END_SECONDS = 15.0
_LONGEST_TAIL = 8192


class Job(BaseModel):
    """A build that somebody asked for.

    Attributes:
        name: of the new guard.
        by: who asked for it.
        begun, ended: times in UTC.
        update: folder of the guard that it is compared with.
        reviews: lines of the file of reviews.
        accept: whether the new guard is kept even if it is worse.
        state: `worse` has a comparison and left no guard. `interrupted` is what was running when its server
            ended.
        problem: why it is `worse` or `failed`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    by: str
    begun: str
    update: str
    reviews: int
    accept: bool = False
    state: State = "running"
    ended: str | None = None
    problem: str | None = None


class Builds:
    """Runs `lockgate build` for new guards of a shelf, and keeps what became of each.

    A build that is interrupted or cancelled goes on where it was, because its work stays. It ends with this
    process. Servers that share the folder build one at a time too.

    Args:
        work: folder for the work of builds and for their records.
        shelf: folder in which new guards appear.
        arguments: what `lockgate build` gets beside the options that a build sets itself.
    """

    def __init__(self, work: Path, shelf: Path, arguments: Sequence[str]) -> None:
        self.work, self._shelf, self._arguments = work, shelf, tuple(arguments)
        self._jobs = work / "jobs"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._runner: threading.Thread | None = None
        self._ending: State | None = None

    def start(self, name: str, by: str, update: Path, reviews: Iterable[bytes]) -> None:
        """Begin a build. Return at once.

        Args:
            name: name of the new guard, which the shelf has not yet.
            by: who asks for it.
            update: the guard to compare it with.
            reviews: lines of the file of reviews, read before this call returns.

        Raises:
            ConfigError: the name can't be taken, there is no review, another build runs, or the folder can't
                be written.
        """
        if NAME.fullmatch(name) is None:
            raise ConfigError("name: expected up to 64 letters, digits and . _ -, a letter or digit first")
        folder = self._jobs / name
        with self._claimed() as held:
            if (folder / "job.json").exists() or os.path.lexists(self._shelf / name):
                raise ConfigError(f"{name}: there is a guard or a build of this name; take another one")
            count = 0
            folder.mkdir(exist_ok=True)
            with open_atomic(folder / "reviews.jsonl") as file:
                for line in reviews:
                    file.write(line)
                    count += 1
            if not count:
                raise ConfigError("there is no verdict with a text yet, and so nothing to learn from")
            self._run(Job(name=name, by=by, begun=_now(), update=str(update), reviews=count), held)

    def resume(self, name: str, *, accept: bool = False) -> None:
        """Let a build go on that has not ended well.

        Args:
            accept: whether to keep the new guard even if it is worse.

        Raises:
            ConfigError: there is no such build, it is done, or another one runs.
        """
        with self._claimed() as held:
            job = self.job(name)
            if job is None or job.state == "done":
                raise ConfigError(f"{name}: there is no build of this name that could go on")
            changes = {"accept": accept or job.accept, "state": "running", "ended": None, "problem": None}
            self._run(job.model_copy(update=changes), held)

    def cancel(self) -> None:
        """End the build that runs, and wait until it has ended. Its work stays."""
        self._end("cancelled")

    def close(self) -> None:
        """End the build that runs. The next server finds it interrupted."""
        self._end("interrupted")

    def jobs(self) -> list[Job]:
        """Return all builds, the newest first. Raises ConfigError: the folder can't be read."""
        try:
            names = [place.parent.name for place in self._jobs.glob("*/job.json")]
        except OSError as error:
            raise ConfigError(f"{self._jobs}: {error.strerror or 'not readable'}") from None
        found = [job for name in names if (job := self.job(name)) is not None]
        return sorted(found, key=lambda job: (job.begun, job.name), reverse=True)

    def job(self, name: str) -> Job | None:
        """Return a build, or None if there is none of that name.

        Raises:
            ConfigError: its record is damaged.
        """
        if NAME.fullmatch(name) is None:
            return None
        place = self._jobs / name / "job.json"
        try:
            job = Job.model_validate_json(place.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise ConfigError(f"{place}: is no record of a build; move it away") from None
        if job.state == "running" and not self._runs():
            return job.model_copy(update={"state": "interrupted"})
        return job

    def tail(self, name: str, lines: int = 8) -> list[str]:
        """Return the last lines that a build has printed."""
        try:
            with (self._jobs / name / "output.txt").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _LONGEST_TAIL))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-lines:]

    def report(self, name: str) -> dict[str, Any] | None:
        """Return the report of a build that has ended; None if it has none.

        Raises:
            ConfigError: it is damaged.
        """
        place = self._jobs / name / "report.json"
        try:
            found = json.loads(place.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise ConfigError(f"{place}: is no report of a build")
        return found

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[ExitStack]:
        """Keep other builds out, until the build that begins in the block has ended."""
        with self._lock, ExitStack() as held:
            try:
                self._jobs.mkdir(parents=True, exist_ok=True)
                busy = ConfigError("another build is running; wait for its end, or cancel it")
                held.enter_context(hold_folder(self.work, busy))
                yield held
            except (OSError, ExchangeError) as error:
                words = error.strerror if isinstance(error, OSError) else str(error)
                raise ConfigError(f"{self.work}: {words or 'not writable'}") from None

    def _runs(self) -> bool:
        """Whether a build runs, here or in another server."""
        if self._runner is not None and self._runner.is_alive():
            return True
        try:
            with hold_folder(self.work, ConfigError("busy")):
                return False
        except ConfigError:
            return True

    def _run(self, job: Job, held: ExitStack) -> None:
        """Start a build. The claim goes over to it."""
        for other in self.jobs():
            # Nobody else can run one now. So it is not taken for the one that begins.
            if other.state == "running" and other.name != job.name:
                self._write(other.model_copy(update={"state": "interrupted"}))
        self._write(job)
        begun = threading.Event()
        self._ending = None
        kept = held.pop_all()
        # The system ends a process together with the thread that has started it.
        self._runner = threading.Thread(
            target=self._follow, args=(job, kept, begun), name="lockgate-build", daemon=True
        )
        self._runner.start()
        begun.wait()

    def _follow(self, job: Job, held: ExitStack, begun: threading.Event) -> None:
        with held:
            try:
                code = self._attend(job, begun)
                ended = self._outcome(job, code)
            except (OSError, LockgateError) as error:
                ended = {"state": "failed", "problem": str(error)}
            finally:
                begun.set()
            if self._ending == "interrupted":
                return  # what the record says is found so by the next server
            with contextlib.suppress(OSError, LockgateError):
                self._write(job.model_copy(update={**ended, "ended": _now()}))

    def _attend(self, job: Job, begun: threading.Event) -> int:
        folder = self._jobs / job.name
        words = [
            *("build", *self._arguments, "--out", str(self._shelf / job.name), "--update", job.update),
            *("--feedback", str(folder / "reviews.jsonl"), "--work", str(self.work / "build")),
            *(["--accept"] if job.accept else []),
        ]
        with (folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [*attended("lockgate"), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        begun.set()
        try:
            return self._process.wait()
        finally:
            # Its workers too: nothing may write to the work folder when the claim is given up.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None

    def _outcome(self, job: Job, code: int) -> dict[str, Any]:
        if code in (0, _WORSE) and self._take_report(job):
            return {"state": "done"} if code == 0 else {"state": "worse", "problem": self._reason(job, code)}
        if self._ending is not None:
            return {"state": self._ending}
        return {"state": "failed", "problem": self._reason(job, code)}

    def _take_report(self, job: Job) -> bool:
        """Keep the report of a build beside its record. The next build replaces it in the work folder."""
        try:
            content = (self.work / "build" / "report.json").read_bytes()
            if json.loads(content)["guard"] != str(self._shelf / job.name):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        with open_atomic(self._jobs / job.name / "report.json") as file:
            file.write(content)
        return True

    def _reason(self, job: Job, code: int) -> str:
        said = [line for line in self.tail(job.name, 40) if line.startswith("error: ")]
        return said[-1].removeprefix("error: ") if said else f"the build has ended with status {code}"

    def _end(self, state: State) -> None:
        with self._lock:
            process, runner = self._process, self._runner
            if process is None or runner is None:
                return
            self._ending = state
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                runner.join(_END_SECONDS)
                if not runner.is_alive():
                    return

    def _write(self, job: Job) -> None:
        with open_atomic(self._jobs / job.name / "job.json") as file:
            file.write((job.model_dump_json(indent=1) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
