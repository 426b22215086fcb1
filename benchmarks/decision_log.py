"""What the decision log takes: records a second on both databases, and what it adds to a request.

    python -m benchmarks.decision_log --output results/decision_log.json
    python -m benchmarks.decision_log --seconds 2 --rounds 4 --requests 50 --only sqlite

Records: the writer gets as many as it takes, from one thread and from 64 threads that each wait for their record as a
stream does. A plain `fsync` of a page beside the file says what the disk gives. Requests: the same server on a tiny model,
with the log and with a log that keeps nothing, in turn, round by round, so that a busy machine slows both alike. The added
time is the median over rounds of the difference of the round's percentiles, with a bootstrap interval: rounds are drawn
with replacement, both sides of each together, and the interval holds the middle 95 % of the medians. `n` is the number
of requests on each side. `wait_ms` is how long an answer waits for its record. PostgreSQL is started in a folder of its
own.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from starlette.testclient import TestClient

from benchmarks.idle import report
from benchmarks.kills import DATABASES, database
from benchmarks.tiny import save_marking_guard
from lockgate.decisions import Content, Decision, DecisionLog, LogOptions, Scores, Started, timestamp
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions, create_app
from lockgate.guards import Guard

STREAMS = 64
CONFIDENCE = 0.95
RESAMPLES = 9999
_Then = Callable[[bool], None]
Floats = NDArray[np.float64]


class NoLog(DecisionLog):
    """A log that keeps nothing: what the server costs without one."""

    def open(self) -> None:
        """Open nothing."""

    def begin(self, record: Started) -> None:
        """Keep nothing."""

    def write(self, record: Decision, content: Content | None = None, then: _Then | None = None) -> None:
        """Keep nothing, and let go on at once."""
        if then is not None:
            then(True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each measurement of records")
    parser.add_argument("--requests", type=int, default=400, help="for each round of requests")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of requests on each side")
    parser.add_argument("--only", choices=DATABASES, help="one database alone")
    parser.add_argument("--output", type=Path, help="result file; without it, standard output alone")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: expected at least 2, of which an interval can be made")
    found: dict[str, Any] = {"cores": os.cpu_count(), "databases": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["fsync_ms"] = percentiles(fsyncs(folder / "page"))
        saved, model = save_marking_guard(folder)
        guard = Guard.load(saved, backbone=model)
        for kind in DATABASES if arguments.only is None else (arguments.only,):
            with database(kind, folder) as place:
                found["databases"][kind] = measure(
                    guard, place, arguments.seconds, arguments.rounds, arguments.requests
                )
    report(found, arguments.output)


def measure(guard: Guard, place: str, seconds: float, rounds: int, count: int) -> dict[str, Any]:
    """Measure one database."""
    pace, waits = waiting(place, seconds, STREAMS)
    return {
        "records_per_s": round(unhurried(place, seconds)),
        "records_per_s_64_streams": round(pace),
        "wait_ms_64_streams": percentiles(waits),
        "wait_ms_1_stream": percentiles(waiting(place, seconds, 1)[1]),
        "request": requests(guard, place, rounds, count),
    }


def unhurried(place: str, seconds: float) -> float:
    """Return the records a second that the writer takes if they come as fast as it can."""
    with _opened(place) as log:
        begun, number = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            log.write(record(number))
            number += 1
            # Without a bound the queue would grow, and the end would take as long again.
            while number % 1000 == 0 and log.unwritten > 5000:
                time.sleep(0.001)
        log.close(timeout=60)
        return log.written / (time.monotonic() - begun)


def waiting(place: str, seconds: float, streams: int) -> tuple[float, list[float]]:
    """Return the records a second, and the milliseconds of each wait, if each stream waits for its record."""
    waits: list[float] = []
    with _opened(place) as log, ThreadPoolExecutor(streams) as pool:
        end = time.monotonic() + seconds

        def stream(number: int) -> None:
            done = threading.Event()
            while time.monotonic() < end:
                begun = time.perf_counter()
                done.clear()
                log.write(record(number), then=lambda _: done.set())
                done.wait()
                waits.append(1000 * (time.perf_counter() - begun))

        list(pool.map(stream, range(streams)))
    return len(waits) / seconds, waits


def requests(guard: Guard, place: str, rounds: int, count: int) -> dict[str, Any]:
    """Return the milliseconds of requests with the log and without one, and the added ones."""
    took: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    with _client(guard, place, DecisionLog) as logged, _client(guard, place, NoLog) as plain:
        for number in range(rounds + 1):
            sides = [("with", logged), ("without", plain)]
            for side, client in sides if number % 2 else sides[::-1]:
                found = percentiles([_ask(client) for _ in range(count)])
                if number:  # the first round warms up
                    took[side].append(found)
    middle = {
        side: {name: round(median(one[name] for one in found), 3) for name in found[0]}
        for side, found in took.items()
    }
    about = {"rounds": rounds, "requests": count, "n": rounds * count, "confidence": CONFIDENCE}
    return {**about, **middle, "added_ms": added(took["with"], took["without"]), "by_round": took}


def added(with_log: Sequence[dict[str, float]], without: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return by how much percentiles are higher with the log, and the interval of each difference.

    Args:
        with_log, without: percentiles of the rounds, one after another.
    """
    found: dict[str, float] = {}
    for name in with_log[0]:
        differences = np.array([a[name] - b[name] for a, b in zip(with_log, without, strict=True)])
        low, high = interval(differences)
        middle = float(np.median(differences))
        found |= {name: round(middle, 3), f"{name}_low": round(low, 3), f"{name}_high": round(high, 3)}
    return found


def interval(values: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the bootstrap interval of a median, by percentiles. It needs two values."""
    found = bootstrap(
        (values,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def fsyncs(path: Path, count: int = 200) -> list[float]:
    """Return the milliseconds of writing and syncing a page."""
    found = []
    with path.open("wb") as file:
        for _ in range(count):
            begun = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            found.append(1000 * (time.perf_counter() - begun))
    return found


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(float(np.percentile(values, percent)), 3) for percent in (50, 99)}


def record(number: int) -> Decision:
    """Return a record as a server writes it."""
    return Decision(
        id=f"chatcmpl-{number:032x}", choice=0, time=timestamp(), mode="enforce", guard="0" * 64, decision="pass",
        enforced=False, finish_reason="stop", category=None, token_index=None, scores=Scores(-3.25, -1.5, 3.0),
        prompt_tokens=60, completion_tokens=300, queue_ms=0.3, first_token_ms=40.0, total_ms=4000.0, stage=1,
        measure="0" * 64,
    )  # fmt: skip


def _ask(client: TestClient) -> float:
    body = {"model": "any", "messages": [{"role": "user", "content": "why"}], "max_tokens": 4, "stream": True}
    begun = time.perf_counter()
    client.post("/v1/chat/completions", json=body).raise_for_status()
    return 1000 * (time.perf_counter() - begun)


@contextmanager
def _opened(place: str) -> Iterator[DecisionLog]:
    log = DecisionLog(LogOptions(place, patience=600.0))
    log.open()
    try:
        yield log
    finally:
        log.close(timeout=60)


@contextmanager
def _client(guard: Guard, place: str, kind: type[DecisionLog]) -> Iterator[TestClient]:
    gateway = Gateway.from_guard(
        guard, GatewayOptions(LogOptions(place), engine=EngineOptions(max_streams=4))
    )
    gateway.decisions = gateway.engine.decisions = kind(LogOptions(place))
    with TestClient(create_app(gateway), base_url="http://localhost") as client:
        yield client


if __name__ == "__main__":
    main()
