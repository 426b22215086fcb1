"""The decision log: one JSON line for each exchange, without its text."""

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
# How many lines are kept in memory while they can't be written, for example because the disk is full.
MOST_UNWRITTEN = 10_000


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """The largest scores of one exchange.

    Attributes:
        max_prompt, max_answer: largest smoothed logit in the prompt and in the answer, on the scale of
            `threshold`. None if nothing in that region was scored.
        threshold: the guard's threshold; None without a guard. If it rises with the answer, that of the
            newest token.
        mixed: largest mixed score of a guard with two stages. None if the second stage was not asked or gave
            no number.
    """

    max_prompt: float | None
    max_answer: float | None
    threshold: float | None
    mixed: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one exchange, which is one choice of one request.

    Attributes:
        decision: `halt` (the answer was flagged), `block` (the prompt was flagged), `error` (the exchange
            could not be checked), `cancelled` (the client left) or `pass`.
        enforced: whether the decision changed the answer. Shadow mode only records a `halt`.
        token_index: the token that was flagged, counted from 0 in the last user turn (`block`) or in the
            answer (`halt`).
        stage: the last stage that was asked; None without a guard.
        verdicts: how often the second stage was asked.
        reason: what failed, if `decision` is `error`.
        fault: where it failed: `scoring` means stage 1 or the engine, `second stage` means stage 2.
        unguarded: whether the answer left without a check, because the guard failed and its route fails open.
        lowered: by how much the conversation's past had lowered the threshold that flags.
        measure: hash of what gives the scores. While it stays the same, they may be compared with other
            thresholds (`lockgate replay`).
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
    measure: str | None = None
    unguarded: bool = False
    lowered: float = 0.0


def timestamp() -> str:
    """Return the time now in UTC, such as 2026-01-31T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class DecisionLog:
    """A log file of decisions that only its owner can read. Safe to call from several threads.

    A line that can't be written changes no answer. It waits in memory until writing works again. Meanwhile
    `failure` holds the reason, and stderr shows it once. If the file is moved away, the log goes on in a new
    file at the same path.
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
        """Create the file now, so that a bad path fails at the start. Raises OSError."""
        with self._lock:
            self._open()

    def reopen(self) -> None:
        """Continue in a new file if the old one was moved or removed.

        `write` does this too. Call `reopen` at a signal, so that the new file exists at once.
        """
        with self._lock:
            try:
                self._open()
            except OSError as error:
                print_failure(f"decision log {self.path}: {error.strerror or error}; can't be opened again")

    def write(self, decision: Decision) -> None:
        """Append one line. On return the operating system has the line, unless `failure` is set."""
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
        """Try once more to write the lines in memory, then close the file."""
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
        # A full disk may cut a line short. That part stays, and the whole line is written again below it.
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
        """Tell whether the path no longer names the open file, because it was rotated or removed."""
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
    """Log a message and print it on stderr, so that an operator sees it under any logging setup."""
    logger.error(message)
    sys.stderr.write(f"lockgate: {message}\n")
    sys.stderr.flush()
