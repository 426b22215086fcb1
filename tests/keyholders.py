"""Clocks and threads for tests of tenants."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Moment:
    """A clock that goes on when the test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Inline(Executor):
    """Does at once what is submitted."""

    def submit(self, act: Callable[..., Any], /, *words: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(act(*words, **options))
        return done
