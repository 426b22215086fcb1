"""Metrics at a real collector: they are those of `/metrics`, and are counted nowhere else."""

import math
from itertools import pairwise

import pytest
from collector import attributes_of, collecting, sending_to
from hypothesis import given
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from serving import CHAT, ask, scoring_for

from lockgate.gateway.telemetry._measures import converted

pytestmark = pytest.mark.anyio

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
CUMULATIVE = 2


def samples_of(metrics) -> dict[tuple, float]:
    """All numbers of OTLP metrics under the names and labels that Prometheus gives them."""
    found = {}
    for name, metric in metrics.items():
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            labels = tuple(sorted(attributes_of(point).items()))
            if kind != "histogram":
                found[name, labels] = point.as_double
                continue
            total = 0
            bounds = [*point.explicit_bounds, math.inf]
            assert len(bounds) == len(point.bucket_counts)
            for bound, count in zip(bounds, point.bucket_counts, strict=True):
                total += count
                found[f"{name}_bucket", tuple(sorted([*labels, ("le", bound)]))] = total
            found[f"{name}_count", labels] = point.count
            if point.HasField("sum"):
                found[f"{name}_sum", labels] = pytest.approx(point.sum)
    return found


def read_page(text: str) -> dict[tuple, float]:
    """The same of the page that Prometheus reads."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = {k: float(v) if k == "le" else v for k, v in sample.labels.items()}
                found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


async def test_they_are_those_of_the_page(make_gateway) -> None:
    with collecting() as collector:
        telemetry = sending_to(collector, traces=False)
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=telemetry)
        async with relayed(gateway, Reply([chat_stream(["The lock holds."])])) as (client, _):
            await client.post(CHAT, json=ask(stream=True))
            await client.post("/v1/moderations", json={"input": "the mill"})
            await client.post(CHAT, json={"model": "big"})
        page = read_page(gateway.metrics.page().decode())
    sent = samples_of(collector.metrics)
    # What tells of the moment has changed since: the server has stopped.
    of_the_moment = {"lockgate_ready", "lockgate_problems"}
    assert {key: value for key, value in sent.items() if key[0] not in of_the_moment} == {
        key: value for key, value in page.items() if key[0] not in of_the_moment
    }
    assert sent["lockgate_exchanges_total", (
        ("decision", "pass"), ("enforced", "false"), ("mode", "enforce"), ("route", CHAT),
    )] == 1  # fmt: skip
    assert "/v1/traces" not in collector.bodies
    for metric in collector.metrics.values():
        kind = metric.WhichOneof("data")
        if kind != "gauge":
            assert getattr(metric, kind).aggregation_temporality == CUMULATIVE
        if kind == "sum":
            assert metric.sum.is_monotonic
        for point in getattr(metric, kind).data_points:
            # What tells of the moment has no begin.
            assert (kind != "gauge") <= (0 < point.start_time_unix_nano <= point.time_unix_nano)
    assert collector.metrics["lockgate_exchange_seconds"].unit == "s"


NUMBERS = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e6)), max_size=20)


@given(values=NUMBERS)
def test_any_counts_are_kept(values) -> None:
    registry = CollectorRegistry()
    counter = Counter("made", "words", ("kind",), registry=registry)
    gauge = Gauge("level", "words", ("kind",), registry=registry)
    histogram = Histogram("wait_seconds", "words", ("kind",), buckets=(0.5, 10.0, 1e3), registry=registry)
    for kind, value in values:
        counter.labels(kind).inc(value)
        gauge.labels(kind).set(value)
        histogram.labels(kind).observe(value)
    found = {metric.name: metric for metric in converted(registry.collect(), 1, 2)}
    assert set(found) == ({"made_total", "level", "wait_seconds"} if values else set())
    for kind in {kind for kind, _ in values}:
        own = [value for other, value in values if other == kind]
        (total,) = [one for one in found["made_total"].data.data_points if one.attributes == {"kind": kind}]
        assert total.value == pytest.approx(sum(own))
        (level,) = [one for one in found["level"].data.data_points if one.attributes == {"kind": kind}]
        assert level.value == own[-1]
        (waits,) = [one for one in found["wait_seconds"].data.data_points if one.attributes == {"kind": kind}]
        bounds = [-math.inf, *waits.explicit_bounds, math.inf]
        assert bounds == [-math.inf, 0.5, 10.0, 1e3, math.inf]
        expected = [sum(a < value <= b for value in own) for a, b in pairwise(bounds)]
        assert list(waits.bucket_counts) == expected
        assert (waits.count, waits.sum) == (len(own), pytest.approx(sum(own)))
