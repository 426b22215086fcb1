"""Metrics for Prometheus: counters and times of exchanges, and the state of the server when it is asked.

Labels have few values: decisions, routes of this server, stages, names from the config. No text of users or
models, no key and no id is among them.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from lockgate.decisions import Decision
from lockgate.tenants import SIGNALS

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# The route of exchanges that only check what clients send.
CHECKS = "checks"

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Logits below the threshold (negative) and above it.
_MARGINS = (-16.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value of the moment, or several by the values of `labels`."""

    name: str
    words: str
    values: Mapping[tuple[str, ...], float]
    labels: tuple[str, ...] = ()


State = Callable[[], Iterable[Gauge]]


class Metrics:
    """The metrics of one server. Any thread may call it.

    Attributes:
        state: tells the gauges of the moment.
        listeners: called with the record of each exchange that is over, under the engine's lock. They must
            be quick and must not raise.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.state: State = lambda: ()
        self.listeners: list[Callable[[Decision], None]] = []
        self._registry.register(_Gauges(self))
        self._exchanges = self._counter(
            "exchanges", "Exchanges that are over.", "route", "mode", "decision", "enforced"
        )
        self._guard = "default"
        self._guards = self._counter(
            "guard_exchanges",
            "Exchanges that are over, by guard.",
            "guard",
            "decision",
        )
        self._flags = self._counter("flags", "Flags by category of the policy.", "category")
        self._unguarded = self._counter("unguarded", "Answers that left unguarded: their route fails open.")
        self._failures = self._counter("guard_failures", "Exchanges that could not be checked.", "fault")
        self._escalated = self._counter("escalated", "Exchanges about which the second stage was asked.")
        self._verdicts = self._counter("verdicts", "Verdicts of the second stage.")
        self._alerts = self._counter("campaign_alerts", "Alerts about campaigns, by signal.", "signal")
        for signal in SIGNALS:
            self._alerts.labels(signal)  # so that the first alert is an increase
        self._tokens = self._counter("tokens", "Tokens read, in the guard's own tokens.", "side")
        self._http = self._counter("http_requests", "Requests by route and status.", "route", "status")
        self._total = self._histogram("exchange_seconds", "From arrival to the end.", _LONG, "decision")
        self._queue = self._histogram("queue_seconds", "Wait until a request is opened.", _SHORT)
        self._first = self._histogram("first_text_seconds", "From arrival to the first text.", _LONG)
        self._step = self._histogram("step_seconds", "Time of a packed step of stage 1.", _SHORT)
        self._verdict = self._histogram("verdict_seconds", "Wait for a verdict of stage 2.", _SHORT)
        self._margin = self._histogram(
            "margin",
            "Largest score of an exchange less its stage's threshold, in logits. Above 0 stage 2 flags, and "
            "stage 1 asks it, or flags if it is alone.",
            _MARGINS,
            "stage",
        )

    def of_guard(self, name: str) -> Self:
        """Return what counts here too, for the guard of this name in the config."""
        made = copy.copy(self)
        made._guard = name
        return made

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"lockgate_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"lockgate_{name}", words, labels, buckets=buckets, registry=self._registry)

    def ended(self, record: Decision, route: str, margin: float | None = None) -> None:
        """Count an exchange that is over.

        Args:
            route: the server's route by which it came; "" for a check.
            margin: by how much its deciding score lies above the threshold that flags; None without one.
        """
        for listener in self.listeners:
            listener(record)
        enforced = "true" if record.enforced else "false"
        self._exchanges.labels(route or CHECKS, record.mode, record.decision, enforced).inc()
        self._guards.labels(self._guard, record.decision).inc()
        if record.decision in ("halt", "block"):
            self._flags.labels(record.category or "").inc()
        if record.decision == "error":
            self._failures.labels(record.fault or "scoring").inc()
        if record.unguarded:
            self._unguarded.inc()
        if record.verdicts:
            self._escalated.inc()
            self._verdicts.inc(record.verdicts)
        self._tokens.labels("prompt").inc(record.prompt_tokens)
        self._tokens.labels("answer").inc(record.completion_tokens)
        self._total.labels(record.decision).observe(record.total_ms / 1000)
        self._queue.observe(record.queue_ms / 1000)
        if record.first_token_ms is not None:
            self._first.observe(record.first_token_ms / 1000)
        scores = record.scores
        # A guard may not flag prompts, so a prompt's score counts only where it did.
        probe = scores.max_prompt if record.decision == "block" else scores.max_answer
        if probe is not None and scores.threshold is not None:
            self._margin.labels("1").observe(probe - scores.threshold)
        if scores.mixed is not None and margin is not None:
            self._margin.labels("2").observe(margin)

    def alerted(self, signal: str) -> None:
        """Count an alert about a campaign."""
        self._alerts.labels(signal).inc()

    def stepped(self, seconds: float) -> None:
        """Note a step of stage 1."""
        self._step.observe(seconds)

    def judged(self, seconds: float) -> None:
        """Note how long a verdict of stage 2 took."""
        self._verdict.observe(seconds)

    def answered(self, route: str, status: int) -> None:
        """Count a request that was answered.

        Args:
            route: template of the route; "-" if there was none.
        """
        self._http.labels(route, str(status)).inc()

    def page(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """Asks for the state of the server at each reading."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for gauge in self._metrics.state():
            family = GaugeMetricFamily(f"lockgate_{gauge.name}", gauge.words, labels=gauge.labels)
            for labels, value in gauge.values.items():
                family.add_metric(labels, value)
            yield family
