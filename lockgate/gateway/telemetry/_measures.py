"""The metrics of `/metrics` in OpenTelemetry's form: read from the same objects, and under the same names."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, cast

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family

from lockgate._version import __version__
from lockgate.gateway._metrics import Metrics

_SECONDS = "_seconds"
_Labels = tuple[tuple[str, str], ...]


class Measures:
    """Returns the metrics of the moment, encoded for OTLP."""

    def __init__(self, metrics: Metrics, resource: Resource) -> None:
        self._metrics = metrics
        self._resource = resource
        self._begun = time.time_ns()

    def __call__(self) -> bytes:
        found = list(converted(self._metrics.families(), self._begun, time.time_ns()))
        scope = ScopeMetrics(InstrumentationScope("lockgate", __version__), found, "")
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        return cast(bytes, encode_metrics(data).SerializeToString())


def converted(families: Iterable[Family], begun: int, now: int) -> Iterator[Metric]:
    """Return metrics of Prometheus's client as those of OpenTelemetry.

    Args:
        begun: since when is counted, in nanoseconds, where the metric does not say.
        now: the time of the values.
    """
    for family in families:
        # Prometheus would put a unit behind the name, unless the name ends with it.
        unit = "s" if family.name.endswith(_SECONDS) else ""
        starts = {_key(one.labels): int(1e9 * one.value) for one in family.samples if _is(one, "_created")}
        if family.type == "histogram":
            points = _histograms(family, starts, begun, now)
            if points:
                data: Any = Histogram(points, AggregationTemporality.CUMULATIVE)
                yield Metric(family.name, family.documentation, unit, data)
            continue
        counts = family.type == "counter"
        name = f"{family.name}_total" if counts else family.name
        numbers = [
            NumberDataPoint(dict(one.labels), starts.get(_key(one.labels), begun), now, one.value)
            for one in family.samples
            if one.name == name
        ]
        data = Sum(numbers, AggregationTemporality.CUMULATIVE, True) if counts else Gauge(numbers)
        if numbers:
            yield Metric(name, family.documentation, unit, data)


def _histograms(
    family: Family, starts: Mapping[_Labels, int], begun: int, now: int
) -> list[HistogramDataPoint]:
    buckets: dict[_Labels, list[tuple[float, float]]] = {}
    sums: dict[_Labels, float] = {}
    for one in family.samples:
        labels = {name: value for name, value in one.labels.items() if name != "le"}
        if _is(one, "_bucket"):
            buckets.setdefault(_key(labels), []).append((float(one.labels["le"]), one.value))
        elif _is(one, "_sum"):
            sums[_key(labels)] = one.value
    found = []
    for key, cumulated in buckets.items():
        # The bounds rise, and the last one is infinite.
        totals = [0, *(int(count) for _, count in cumulated)]
        found.append(
            HistogramDataPoint(
                attributes=dict(key),
                start_time_unix_nano=starts.get(key, begun),
                time_unix_nano=now,
                count=totals[-1],
                # Prometheus keeps none where values may be negative.
                sum=cast(float, sums.get(key)),
                bucket_counts=[after - before for before, after in pairwise(totals)],
                explicit_bounds=[bound for bound, _ in cumulated if math.isfinite(bound)],
                # Nobody has kept them.
                min=cast(float, None),
                max=cast(float, None),
            )
        )
    return found


def _is(sample: Any, suffix: str) -> bool:  # noqa: ANN401 - a named tuple of the library
    return cast(str, sample.name).endswith(suffix)


def _key(labels: Mapping[str, str]) -> _Labels:
    return tuple(sorted(labels.items()))
