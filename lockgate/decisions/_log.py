"""The decision log of a running server: records go in from any thread, and one thread writes them."""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from lockgate.databases import Database
from lockgate.decisions._appender import MOVED, Appender
from lockgate.decisions._chain import Draft, Kind
from lockgate.decisions._content import Content, ContentKeeper
from lockgate.decisions._left import adopt, spill_place
from lockgate.decisions._options import LogOptions
from lockgate.decisions._queue import Queue, Then, Waiting
from lockgate.decisions._record import Decision, GuardChange, Started, timestamp
from lockgate.decisions._schema import LOG_SCHEMA
from lockgate.decisions._spill import Spill
from lockgate.errors import DecisionLogError

logger = logging.getLogger("lockgate.decisions")

# Records that go into one transaction.
_MOST_AT_ONCE = 512
# Seconds between attempts while the database can't be written: the first, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# How often old records are removed, in seconds, and how many at a time, so that no stream waits for long.
_PURGE_SECONDS = 3600.0
_PURGED_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Left:
    """What a log has not written when it is closed.

    Attributes:
        unwritten: decisions that are not in the database.
        spilled: those of them that are in the file `spill`, from which the next start takes them.
        lost: decisions that are nowhere.
    """

    unwritten: int
    spilled: int
    lost: int
    spill: Path | None

    def __str__(self) -> str:
        where = (
            "" if self.spill is None else f"; {self.spilled} of them are in {self.spill} for the next start"
        )
        return f"{self.unwritten} decision(s) are not in the database{where}; {self.lost} are lost"


class DecisionLog:
    """The decision log. Any thread may call `begin` and `write` and read the properties.

    All that waits is written in one transaction, by one thread. While the database can't be written, the
    policy of the options holds: records wait in memory and, if possible, in a file beside the database.

    Args:
        options: where and how the log is kept.

    Attributes:
        failure: why no record can be written now; None if all is well.
        written: decisions in the database.
        lost: decisions that are nowhere, because the memory for them was full.
        on_block: called when the policy `block` begins to hold.
        on_purge: called with `retention_days`, about once an hour, when older records have been removed. It
            must return at once.
    """

    def __init__(self, options: LogOptions) -> None:
        self.options = options
        self.place = options.place
        self.failure: str | None = None
        self.written = 0
        self.lost = 0
        self.on_block: Callable[[], None] = lambda: None
        self.on_purge: Callable[[float], None] = lambda _: None
        self._queue = Queue(ContentKeeper(options.content, options.public_key))
        self._lock = self._queue.lock
        self._work = threading.Condition(self._lock)
        self._watch = threading.Condition(self._lock)
        self._appender = Appender(Database(self.place, LOG_SCHEMA), options.writer)
        self._spill_lock = threading.Lock()
        self._spill: Spill | None = None
        self._spill_failure: str | None = None
        self._overflow = 0  # decisions that are in the spill file alone
        self._noted_lost = 0
        self._noted_rewound = 0
        self._left: Left | None = None
        self._reopening = self._closing = self._stopped = False
        self._next_purge = time.monotonic()
        self._threads = [
            threading.Thread(target=self._write_all, name="lockgate-log", daemon=True),
            threading.Thread(target=self._keep_watch, name="lockgate-log-keeper", daemon=True),
        ]

    def open(self) -> None:
        """Open the database, take over what ended processes have left, and start to write.

        Raises:
            DecisionLogError: the database can't be used.
        """
        self._appender.open()
        place = spill_place(self.options)
        self._spill = Spill(place)
        for line in adopt(self._appender, place):
            print_failure(f"decision log {self.place}: {line}")
        for thread in self._threads:
            thread.start()

    def begin(self, record: Started) -> None:
        """Record that a request has begun. Nothing waits for that."""
        self._add(Waiting(_draft("start", record, record.id, None)))

    def note_guard(self, record: GuardChange) -> None:
        """Record that another guard judges from now on. Nothing waits for that."""
        self._add(Waiting(_draft("guard", record, record.id, None)))

    def write(self, record: Decision, content: Content | None = None, then: Then | None = None) -> None:
        """Record a decision.

        Args:
            content: the text of the exchange. It is kept as the options say.
            then: called once, from another thread, when the record is in the database. While the database
                can't be written, it is called when the record is kept as the policy says: with True, or with
                False if the policy is `block`.
        """
        kept = content if self.options.keeps_content else None
        self._add(Waiting(_draft("decision", record, record.id, record.choice), kept, then))

    def reopen(self) -> None:
        """Make a new database if the old one was moved or removed. Any thread may call this."""
        with self._lock:
            self._reopening = True
            self._work.notify()

    @property
    def admits(self) -> bool:
        """Whether new requests may begin."""
        return self.failure is None or self.options.when_unwritable == "degrade"

    @property
    def blocks(self) -> bool:
        """Whether open answers must end."""
        return self.failure is not None and self.options.when_unwritable == "block"

    @property
    def unwritten(self) -> int:
        """Decisions that are not in the database yet."""
        with self._lock:
            return self._queue.decisions() + self._overflow

    @property
    def spilled(self) -> int:
        """Records in the spill file."""
        return 0 if self._spill is None else self._spill.count

    def close(self, timeout: float = 10.0) -> Left:
        """Write what waits, and end the chain. What can't be written stays in the spill file if possible.

        Args:
            timeout: seconds that the database may take.
        """
        writer, keeper = self._threads
        with self._lock:
            if self._left is not None:
                return self._left
            self._closing = True
            self._work.notify()
        if writer.ident is not None:
            writer.join(timeout)
        with self._lock:
            self._stopped = True
            self._watch.notify()
            left, fresh = self._queue.unspilled(), self._queue.take_fresh()
        if keeper.ident is not None:
            keeper.join(timeout)
        self._keep(left)
        with self._lock:
            then = self._queue.tell(fresh)
            unwritten = self._queue.decisions() + self._overflow
            nowhere = sum(item.counts for item in self._queue.unspilled())
        _call(then, self.options.when_unwritable != "block")
        spill = self._spill
        if spill is not None:
            spill.release()
        if not writer.is_alive():
            self._appender.close()
        self.lost += nowhere
        path = None if spill is None or unwritten == nowhere else spill.path
        self._left = Left(unwritten, unwritten - nowhere, self.lost, path)
        if unwritten:
            print_failure(f"decision log {self.place}: {self._left}")
        return self._left

    def _add(self, item: Waiting) -> None:
        with self._lock:
            self._queue.add(item)
            self._work.notify()
            if self.failure is not None:
                self._watch.notify()

    def _write_all(self) -> None:
        """Write what waits, until the log is closed. The writer's thread runs this."""
        pause, reopening = _FIRST_PAUSE, False
        while True:
            with self._lock:
                while not self._is_due():
                    self._work.wait(1.0)
                batch = self._queue.first(_MOST_AT_ONCE)
                closing, asked, self._reopening = self._closing, self._reopening, False
            reopening = reopening or asked  # until it has worked
            try:
                if reopening:
                    self._open_again()
                    reopening = False
                self._appender.append(self._queue.prepared(batch))
                self._succeeded(batch)
                pause = _FIRST_PAUSE
                if closing and not self._queue:
                    self._appender.end(written=self.written, lost=self.lost)
                    return
                self._purge_old()
            except Exception as error:  # the writer must outlive any fault
                self._failed(_words(error, self.options))
                if closing:
                    return
                with self._lock:
                    until = time.monotonic() + pause
                    while not (self._closing or self._reopening) and (left := until - time.monotonic()) > 0:
                        self._work.wait(left)
                pause = min(_LONGEST_PAUSE, 2 * pause)

    def _is_due(self) -> bool:
        purges = self.options.retention_days is not None and time.monotonic() >= self._next_purge
        asked = self._closing or self._reopening or purges
        return bool(self._queue) or asked or self.failure is not None

    def _open_again(self) -> None:
        self._appender.close()
        self._appender.open(create=True)

    def _succeeded(self, batch: list[Waiting]) -> None:
        with self._lock:
            then = self._queue.drop(batch)
            self.written += sum(item.counts for item in batch)
            was, self.failure = self.failure, None
        _call(then, True)
        if was is not None:
            print_failure(f"decision log {self.place}: can be written again", error=False)
        if self._appender.rewound > self._noted_rewound:
            self._noted_rewound = self._appender.rewound
            print_failure(
                f"decision log {self.place}: the database has lost records that it had; "
                "`lockgate log verify` says which"
            )
        self._take_back()
        if self.lost > self._noted_lost:
            self._note_lost()

    def _take_back(self) -> None:
        """Write what is in the spill file alone, and remove the file once the database has all of it."""
        spill = self._spill
        if spill is None or not spill.count:
            return
        with self._spill_lock:
            with self._lock:
                if self._queue.has_spilled():
                    return
                overflow = self._overflow
            if overflow:
                drafts = spill.read()
                for start in range(0, len(drafts), _MOST_AT_ONCE):
                    self._appender.append_missing(drafts[start : start + _MOST_AT_ONCE])
                with self._lock:
                    self._overflow = 0
                    self.written += overflow
            spill.clear()

    def _note_lost(self) -> None:
        lost = self.lost
        body = json.dumps({"time": timestamp(), "records": lost - self._noted_lost})
        self._appender.append([Draft("lost", timestamp(), body)])
        self._noted_lost = lost

    def _purge_old(self) -> None:
        days = self.options.retention_days
        if days is None or time.monotonic() < self._next_purge:
            return
        self._next_purge = time.monotonic() + _PURGE_SECONDS
        before = datetime.now(UTC) - timedelta(days=days)
        try:
            count = self._appender.purge(_time(before), "retention", _PURGED_AT_ONCE)
        except Exception as error:  # records can be written all the same
            print_failure(f"{_words(error, self.options)}; old records stay for another hour")
            return
        if count == _PURGED_AT_ONCE:
            self._next_purge = time.monotonic()
            return
        self.on_purge(days)

    def _failed(self, reason: str, still: Callable[[], bool] = lambda: True) -> None:
        """Count the database as unwritable, if `still` says so under the lock."""
        with self._lock:
            if not still():
                return
            was, self.failure = self.failure, reason
            self._watch.notify()
            self._work.notify()
        if was is None:
            print_failure(f"{reason}; {_MEANING[self.options.when_unwritable]}")
            if self.options.when_unwritable == "block":
                self.on_block()

    def _keep_watch(self) -> None:
        """Look after records that wait for too long. The keeper's thread runs this."""
        while True:
            with self._lock:
                if self._stopped:
                    return
                self._watch.wait(self.options.patience / 4)
                late = self.failure is None and self._is_late()
            try:
                self._look_after(late)
            except Exception as error:  # the keeper must outlive any fault
                logger.error("the decision log's keeper failed (%s)", type(error).__name__)

    def _look_after(self, late: bool) -> None:
        if late:
            words = f"has not answered for {self.options.patience:g} s"
            self._failed(f"decision log {self.place}: {words}", self._is_late)
        elif self.failure is None and self._appender.database.moved and not self._reopening:
            self._failed(f"decision log {self.place}: {MOVED}")
        if self.failure is None:
            return
        with self._lock:
            fresh = self._queue.take_fresh()
        self._keep(fresh)
        with self._lock:
            for item in self._queue.trim(self.options.most_waiting):
                self._overflow += item.counts and item.spilled
                self.lost += item.counts and not item.spilled

    def _is_late(self) -> bool:
        oldest = self._queue.oldest()
        return oldest is not None and time.monotonic() - oldest > self.options.patience

    def _keep(self, items: list[Waiting]) -> None:
        """Put records into the spill file if possible, and let go on what waits for them."""
        if not items:
            return
        drafts = self._queue.prepared(items)
        with self._spill_lock:
            spilled = self._try_spill(drafts)
            with self._lock:
                for item in items:
                    item.spilled = item.spilled or spilled
                then = self._queue.tell(items)
        _call(then, self.options.when_unwritable != "block")

    def _try_spill(self, drafts: Sequence[Draft]) -> bool:
        """Put records into the spill file, and say once if that is not possible."""
        if self._spill is None:
            return False
        try:
            self._spill.add(drafts)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if self._spill_failure != reason:
                print_failure(f"decision log: {self._spill.path}: {reason}; records wait in memory alone")
            self._spill_failure = reason
            return False
        self._spill_failure = None
        return True


_MEANING = {
    "stop_admission": "no new requests are taken, and records wait",
    "degrade": "answers go on, and records wait",
    "block": "no answers leave, and records wait",
}


def print_failure(message: str, *, error: bool = True) -> None:
    """Log a message for the operator. Without any set-up, Python's logging prints it on standard error."""
    logger.log(logging.ERROR if error else logging.WARNING, message)


def _draft(kind: Kind, record: Started | Decision | GuardChange, exchange: str, choice: int | None) -> Draft:
    body = msgspec.json.encode(record).decode()
    return Draft(kind, timestamp(), body, exchange, choice)


def _call(waiting: list[Then], kept: bool) -> None:
    for then in waiting:
        try:
            then(kept)
        except Exception as error:  # one stream's fault is not that of the others
            logger.error("the end of an answer could not be delivered (%s)", type(error).__name__)


def _words(error: Exception, options: LogOptions) -> str:
    if isinstance(error, DecisionLogError):
        return str(error)
    logger.error("the decision log's thread failed (%s)", type(error).__name__)
    return f"decision log {options.place}: {type(error).__name__}"


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
