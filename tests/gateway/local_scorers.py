"""Scorers in threads of this process, which tests can kill, hold or keep away."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from logs import opened_log

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeTap
from lockgate.gateway import Engine, EngineOptions, Scoring
from lockgate.gateway.scorers import Lease, Part, Reading, ScorerCore, ScorerStepper


class LocalScorer:
    """A scorer on one thread. Its calls come in their order, as those of an actor do."""

    def __init__(self, core: ScorerCore) -> None:
        self.core = core
        self.go = threading.Event()
        self.go.set()
        self.dead = False
        self.reads = 0
        self._thread = ThreadPoolExecutor(1)

    def open(self, name: str, capacity: int, prefix: Sequence[int]) -> None:
        self._call(self.core.open, name, capacity, list(prefix))

    def fork(self, name: str, parent: str, start: int, capacity: int) -> None:
        self._call(self.core.fork, name, parent, start, capacity)

    def close(self, name: str) -> None:
        self._call(self.core.close, name)

    def read(self, parts: Sequence[Part]) -> "Future[list[Reading]]":
        self.reads += 1
        return self._call(self.core.read, list(parts))

    def idle(self) -> None:
        """Wait until all calls so far are over."""
        self._thread.submit(lambda: None).result(timeout=30)

    def _call(self, act, *arguments) -> Future[Any]:
        def run():
            assert self.go.wait(30)
            if self.dead:
                raise ConnectionError("the process has ended")
            return act(*arguments)

        return self._thread.submit(run)


class LocalScorers:
    """A few scorers, which take requests in turn. While `free` is False, none has room."""

    name = "gateway"

    def __init__(self, cores: Sequence[ScorerCore]) -> None:
        self.all = [LocalScorer(core) for core in cores]
        self.free = True
        self.free_dead = False  # whether one that is dead is given out, as before its end is noticed
        self.leases: list[Lease] = []
        self.released: list[Lease] = []
        self._next = itertools.cycle(self.all)

    def lease(self, tokens: int, tell) -> Lease:
        lease = Lease(tokens, tell)
        self.leases.append(lease)
        if self.free:
            lease.grant(next(one for one in self._next if self.free_dead or not one.dead))
        return lease

    def release(self, lease: Lease) -> None:
        self.released.append(lease)

    def close(self) -> None:
        pass

    def kill(self, scorer: LocalScorer) -> None:
        """End a scorer as a process ends: what it is asked fails, and who has leased it learns of it."""
        scorer.dead = True
        scorer.go.set()
        for lease in self.leases:
            if lease.scorer is scorer:
                lease.lose("it was killed")


@contextmanager
def engine_with_scorers(
    backbone: Backbone,
    scoring: Scoring,
    folder: Path,
    *,
    scorers: int = 2,
    patience: float = 30.0,
    **options: Any,
) -> Iterator[tuple[Engine, LocalScorers]]:
    """An engine whose answers are read by a few scorers, each with a probe of its own."""
    made = []
    for _ in range(scorers):
        own = Scoring(
            scoring.stages,
            ProbeTap([scoring.stages.head], backbone.hidden_size),
            scoring.refusal,
            scoring.guard,
        )
        made.append(ScorerCore(backbone, own, kv_tokens=8192, streams=8))
    apart = LocalScorers(made)
    limits = EngineOptions(**options)
    make = partial(
        ScorerStepper,
        backbone,
        scoring,
        apart,
        width=limits.max_streams,
        kv_tokens=limits.kv_tokens or scorers * 8192,
        of_one=8192,
        step_timeout=limits.step_timeout,
        patience=patience,
    )
    log = opened_log(folder / "decisions.db")
    engine = Engine(backbone, scoring, log, limits, make)
    engine.start()
    try:
        yield engine, apart
    finally:
        engine.close()
        log.close()
        for scorer in apart.all:
            scorer.go.set()
            scorer.idle()
