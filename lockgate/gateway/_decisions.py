"""The decision log: one JSON line for each exchange, without any text of it."""

import logging
import os
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

logger = logging.getLogger("lockgate.gateway")

DecisionKind = Literal["pass", "halt", "block", "error", "cancelled"]
Fault = Literal["scoring", "second stage"]
# Lines that a full disk refused are kept, this many of them, and written when there is room again.
MOST_UNWRITTEN = 10_000


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """The probe's logits, on the scale of `threshold`. None: nothing of that region was scored.

    `mixed` is the largest mixed score of a guard with two stages, None where the second was not asked or gave
    no number.
    """

    max_prompt: float | None
    max_answer: float | None
    threshold: float | None
    mixed: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one exchange, that is one choice of one request.

    `decision` is what the guard found: `halt` (answer flagged), `block` (prompt flagged), `error` (it could
    not be checked), `cancelled` (the client left), `pass`. `enforced` says whether the client felt it: in
    shadow mode a `halt` is recorded and the answer goes on. `token_index` is the flag's place, from 0, in the
    last user turn (`block`) or in the answer (`halt`). `stage` is the last stage that was asked, None without
    a guard, and `verdicts` says how often the second was. `reason` and `fault` say of an `error` what failed
    and where: `scoring` is the first stage or the engine itself.
    """

    id: str
    choice: int
    time: str
    mode: str
    guard: str | None
    decision: DecisionKind
    enforced: bool
    finish_reason: str | None
    category: str | None
    token_index: int | None
    scores: Scores
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    first_token_ms: float | None
    total_ms: float
    reason: str | None = None
    fault: Fault | None = None
    stage: int | None = None
    verdicts: int = 0


def timestamp() -> str:
    """Now, in UTC, as in 2026-01-31T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class DecisionLog:
    """Appends decisions to a file that only its owner can read. Safe to call from several threads.

    A line that can't be written never stops an answer and never lets one pass: it is kept in memory, the
    failure is said on stderr and in `failure`, and the line follows as soon as writing works again. A log
    that was moved away goes on in a new file at the old path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        self.written = 0
        self.lost = 0
        self._unwritten: deque[bytes] = deque()
        self._descriptor: int | None = None
        self._torn = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Create the file now, so that a bad path is an error at the start. Raises OSError."""
        with self._lock:
            self._open()

    def reopen(self) -> None:
        """Go on in a new file if the path names none, or another, since the log was rotated away.

        `write` does this by itself; called at a signal, the new file is there at once.
        """
        with self._lock:
            try:
                self._open()
            except OSError as error:
                print_failure(f"decision log {self.path}: {error.strerror or error}; can't be opened again")

    def write(self, decision: Decision) -> None:
        """Append one line; when this returns the operating system has it, unless `failure` is set."""
        with self._lock:
            self._unwritten.append(msgspec.json.encode(decision) + b"\n")
            while len(self._unwritten) > MOST_UNWRITTEN:
                self._unwritten.popleft()
                self.lost += 1
            self._flush()

    @property
    def unwritten(self) -> int:
        return len(self._unwritten)

    def close(self) -> None:
        """Try once more to write what is left, then close the file."""
        with self._lock:
            self._flush()
            self._release()

    def _flush(self) -> None:
        try:
            while self._unwritten:
                self._append(self._unwritten[0])
                self._unwritten.popleft()
                self.written += 1
        except OSError as error:
            self._release()
            if self.failure is None:
                print_failure(
                    f"decision log {self.path}: {error.strerror or error}; lines are kept in memory"
                )
            self.failure = error.strerror or type(error).__name__
        else:
            self.failure = None

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        # A line that a full disk cut short stays as it is; the whole line follows on a line of its own.
        data = b"\n" + line if self._torn else line
        done = os.write(descriptor, data)
        self._torn = done < len(data)
        if self._torn:
            raise OSError(28, "short write")

    def _open(self) -> int:
        if self._descriptor is not None and self._is_moved(self._descriptor):
            self._release()
            self._torn = False
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        return self._descriptor

    def _is_moved(self, descriptor: int) -> bool:
        """Whether the path no longer names the file that is open: rotated, or removed."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return True
        held = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino)

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def print_failure(message: str) -> None:
    """Say it on stderr whatever logging is set to: an operator must be able to see it."""
    logger.error(message)
    sys.stderr.write(f"lockgate: {message}\n")
    sys.stderr.flush()
