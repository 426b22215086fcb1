"""A collector that is down, slow or full: requests go on, one line says so, and the end comes in time."""

import logging
import socket
import threading
import time

import pytest
from collector import collecting, sending_to
from models import random_head, tiny_backbone
from opentelemetry.sdk.trace import TracerProvider
from serving import CHAT, ask, client_for, eventually, scoring_for

from lockgate.gateway import TelemetryOptions
from lockgate.gateway.telemetry import _sender
from lockgate.gateway.telemetry._sender import AT_ONCE, Sender

pytestmark = pytest.mark.anyio

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def spans(number: int, start: int = 0) -> list:
    made = [TRACER.start_span(f"span {start + index}") for index in range(number)]
    for span in made:
        span.end()
    return made


def names(collector) -> list[int]:
    return [int(span.name.removeprefix("span ")) for span in collector.spans]


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lockgate.telemetry"]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]  # bound, and nobody listens


async def test_requests_go_on_while_it_is_down_and_one_line_says_so(
    make_gateway, closed_port, caplog
) -> None:
    telemetry = TelemetryOptions(f"http://127.0.0.1:{closed_port}", interval=0.01)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=telemetry)
    async with client_for(gateway) as client:
        for _ in range(3):
            response = await client.post(CHAT, json=ask(max_tokens=3))
            assert response.status_code == 200
        await eventually(lambda: len(lines(caplog)) == 2)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    told = sorted(lines(caplog))
    assert told == [
        "telemetry: metrics can't be sent (ConnectError); requests go on",
        "telemetry: traces can't be sent (ConnectError); requests go on",
    ]


async def test_a_collector_that_never_answers_holds_neither_a_request_nor_the_end(make_gateway) -> None:
    with collecting() as collector:
        collector.gate.clear()
        gateway = make_gateway(
            BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=sending_to(collector, interval=0.01)
        )
        async with client_for(gateway) as client:
            await eventually(collector.arrived.is_set)
            # The sender hangs in a request now.
            for _ in range(3):
                assert (await client.post(CHAT, json=ask(max_tokens=3))).status_code == 200
            gateway.telemetry.close(0.05)
            begun = time.monotonic()
        assert time.monotonic() - begun < 10
        collector.gate.set()


def test_what_was_refused_for_now_is_sent_later_and_in_order(caplog) -> None:
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        collector.status = 503
        sender = Sender(sending_to(collector, interval=0.01), None)
        sender.start()
        for span in spans(5):
            sender.add(span)
        wait_until(lambda: collector.refused >= 3)
        assert lines(caplog) == ["telemetry: traces can't be sent (HTTP 503); requests go on"]
        collector.status = 200
        wait_until(lambda: len(collector.spans) == 5)
        sender.close(5)
    assert names(collector) == list(range(5))
    assert lines(caplog)[1:] == ["telemetry: traces are sent again"]


def test_what_is_refused_for_good_is_dropped_and_counted(caplog) -> None:
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        collector.status = 401
        sender = Sender(sending_to(collector, interval=0.01), None)
        sender.start()
        for span in spans(3):
            sender.add(span)
        wait_until(lambda: collector.refused == 1)
        collector.status = 200
        for span in spans(2, 3):
            sender.add(span)
        wait_until(lambda: len(lines(caplog)) == 2)
        sender.close(5)
    assert names(collector)[-1] == 4
    told = lines(caplog)
    assert told[0] == "telemetry: traces can't be sent (HTTP 401); requests go on"
    assert told[1].startswith("telemetry: traces are sent again; ")


def test_many_go_before_the_interval_and_all_at_the_end() -> None:
    with collecting() as collector:
        sender = Sender(sending_to(collector), None)
        sender.start()
        for span in spans(AT_ONCE + 1):
            sender.add(span)
        wait_until(lambda: len(collector.spans) >= AT_ONCE)
        for span in spans(2, AT_ONCE + 1):
            sender.add(span)
        sender.close(5)
        sender.close(5)
    assert names(collector) == list(range(AT_ONCE + 3))


def test_if_too_many_wait_the_oldest_are_dropped(monkeypatch) -> None:
    monkeypatch.setattr(_sender, "MOST_WAITING", 4)
    with collecting() as collector:
        sender = Sender(sending_to(collector), None)
        for span in spans(7):
            sender.add(span)
        sender.start()
        sender.close(5)
    assert names(collector) == [3, 4, 5, 6]


def test_a_fault_of_the_measures_ends_no_thread(caplog) -> None:
    def broken() -> bytes:
        calls.append(1)
        raise ValueError("purple-otter")

    calls: list[int] = []
    with collecting() as collector:
        sender = Sender(sending_to(collector, interval=0.01), broken)
        sender.start()
        wait_until(lambda: len(calls) > 2)
        for span in spans(1):
            sender.add(span)
        wait_until(lambda: len(collector.spans) == 1)
        sender.close(5)
    assert lines(caplog) == ["telemetry: metrics can't be sent (ValueError); requests go on"]


def test_a_redirect_is_not_followed() -> None:
    with collecting() as collector:
        collector.status = 307
        sender = Sender(sending_to(collector), None)
        sender.start()
        sender.add(*spans(1))
        sender.close(5)
    assert collector.refused == 1


def wait_until(condition) -> None:
    done = threading.Event()
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        done.wait(0.002)
