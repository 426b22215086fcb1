"""The cache of completions: a SQLite file, keyed by the hash of the request."""

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lockgate.errors import SynthesisError
from lockgate.synthesis._requests import Completion, GenerationRequest, Generator, Outcome

_VERSION = 1
_LOOKUP = 500
_SWITCH_SECONDS = 60
_CREATE = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL) WITHOUT ROWID"""


class RequestCache:
    """A file of completions by request key. It opens again after a process was killed at any moment.

    The file holds completions but no prompts, because keys are hashes. Failures are never kept. Several
    processes may share the file.

    Raises:
        SynthesisError: The file can't be opened or written, or is no such cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            # With a write-ahead log, NORMAL loses nothing to a killed process, only to a power cut.
            self._keep_a_log()
            self._base.execute("PRAGMA synchronous=NORMAL")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise SynthesisError(
                    f"{self.path}: a request cache of version {version}, expected {_VERSION}"
                )
            self._base.execute(_CREATE)
            self._base.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error as error:
            self._base.close()
            raise self._failed(error) from error
        except SynthesisError:
            self._base.close()
            raise

    def _keep_a_log(self) -> None:
        """Turn on the write-ahead log. That needs the file alone, and SQLite doesn't wait, so we retry."""
        until = time.monotonic() + _SWITCH_SECONDS
        while True:
            try:
                self._base.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the completions that the cache holds, by key."""
        found: dict[str, Completion] = {}
        try:
            for start in range(0, len(keys), _LOOKUP):
                part = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                query = f"SELECT * FROM answers WHERE key IN ({marks})"  # noqa: S608 - only question marks
                for key, *fields in self._base.execute(query, part):
                    found[key] = Completion(*fields)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return found

    def put(self, answers: Mapping[str, Completion]) -> None:
        """Keep completions: all of them or none."""
        rows = [
            (key, answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens)
            for key, answer in answers.items()
        ]
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
                self._base.execute("COMMIT")
            except sqlite3.Error:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def __len__(self) -> int:
        return int(self._base.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file. The cache can't be used afterwards."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: sqlite3.Error) -> SynthesisError:
        return SynthesisError(
            f"{self.path}: the request cache can't be used ({error}). Finished work is kept: make room or "
            "check the folder and run again; you may delete a damaged file, its requests are then sent again"
        )


class CachedGenerator(Generator):
    """A generator with a cache. It sends only requests that the cache lacks, and keeps completions at once.

    Equal requests of one call are sent once. The answers of a `by_batch` generator depend on the other
    requests of the call. So its keys cover the whole call. A repeated run then
    gives the same as an undisturbed one.
    """

    def __init__(self, generator: Generator, cache: RequestCache) -> None:
        self.name = generator.name
        self.by_batch = generator.by_batch
        self.hits = 0
        self._generator = generator
        self._cache = cache

    @property
    def identity(self) -> str:
        return self._generator.identity

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        keys = [request.key(self.identity) for request in requests]
        if self.by_batch:
            plan = hashlib.sha256("".join(keys).encode()).hexdigest()
            keys = [hashlib.sha256(f"{plan}{key}".encode()).hexdigest() for key in keys]
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        known = self._cache.get(list(places))
        if self.by_batch and len(known) < len(places):
            known = {}
        self.hits += len(known)
        for key, answer in known.items():
            yield from ((place, answer) for place in places[key])
        missing = [key for key in places if key not in known]
        if missing:
            yield from self._ask(requests, places, missing)

    def close(self) -> None:
        """Close the file of the cache."""
        self._cache.close()

    def _ask(
        self, requests: Sequence[GenerationRequest], places: Mapping[str, list[int]], missing: Sequence[str]
    ) -> Iterator[tuple[int, Outcome]]:
        held: dict[str, Completion] = {}
        for index, outcome in self._generator.stream([requests[places[key][0]] for key in missing]):
            key = missing[index]
            if isinstance(outcome, Completion):
                held[key] = outcome
                if not self.by_batch:
                    self._cache.put(held)
                    held = {}
            yield from ((place, outcome) for place in places[key])
        if held:
            self._cache.put(held)
