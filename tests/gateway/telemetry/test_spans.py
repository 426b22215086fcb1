"""Traces at a real collector: which spans there are, what they say, and that they hold no text."""

import string
from typing import Any

import httpx2
import pytest
from collector import attributes_of, collecting, sending_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from opentelemetry.sdk.resources import Resource
from relaying import relayed, told_by
from scripted_upstream import Reply, chat_body, chat_stream, scripted_upstream
from serving import CHAT, ask, client_for, decisions_of, events_of, eventually, scoring_for
from staging import LOUD, staged
from test_given import smoothed

from lockgate.decisions import LogOptions
from lockgate.gateway import GatewayOptions, create_passing_app
from lockgate.gateway.telemetry import _spans
from lockgate.gateway.telemetry._spans import Spans
from lockgate.gateway.telemetry._tracing import Tracing
from lockgate.gateway.upstream import UpstreamOptions, Upstreams, UpstreamTable

pytestmark = pytest.mark.anyio

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
PROMPT, ANSWER = "why does the lock hold", "The lock holds the water back."
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVER, CLIENT = 2, 3  # kinds of spans
FAILED = 2


@pytest.fixture
def collector():
    with collecting() as made:
        yield made


@pytest.fixture
def gateway(make_gateway, collector):
    return make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=sending_to(collector))


def children_of(collector, span):
    return [one for one in collector.spans if one.parent_span_id == span.span_id]


async def test_an_exchange_has_its_spans(collector, gateway) -> None:
    async with client_for(gateway) as client:
        headers = {**SENT, "x-request-id": "mine-1"}
        response = await client.post(CHAT, json=ask(PROMPT, max_tokens=6), headers=headers)
        await client.get("/health")
    (row,) = decisions_of(gateway)
    server = collector.one(f"POST {CHAT}")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert (server.parent_span_id.hex(), server.kind) == (PARENT, SERVER)
    assert attributes_of(server) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": CHAT,
        "network.protocol.version": "1.1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lockgate",
        "gen_ai.request.model": "tiny-llama",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": response.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": response.json()["usage"]["completion_tokens"],
        "lockgate.request.id": "mine-1",
        "lockgate.exchange.ids": [row["id"]],
        "lockgate.mode": "enforce",
        "lockgate.decision": "pass",
        "lockgate.enforced": False,
        "lockgate.guard": row["guard"],
    }
    (exchange,) = children_of(collector, server)
    told = attributes_of(exchange)
    assert (exchange.name, told["lockgate.exchange.id"]) == ("lockgate.exchange", row["id"])
    assert told["lockgate.stage"] == 1
    assert told["gen_ai.usage.output_tokens"] == row["completion_tokens"]
    parts = children_of(collector, exchange)
    assert [span.name for span in parts] == ["lockgate.queue", "lockgate.prompt", "lockgate.record"]
    queue, prompt, record = parts
    assert exchange.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prompt.start_time_unix_nano
    (first,) = exchange.events
    assert first.name == "lockgate.first_text"
    # The log's numbers are rounded to a tenth of a millisecond.
    assert prompt.end_time_unix_nano <= first.time_unix_nano + 100_000
    assert first.time_unix_nano <= record.start_time_unix_nano + 100_000
    assert record.end_time_unix_nano == exchange.end_time_unix_nano
    assert server.start_time_unix_nano <= exchange.start_time_unix_nano
    (resource,) = collector.requests[0].resource_spans
    about = attributes_of(resource.resource)
    assert about["service.name"] == "lockgate"
    assert about["service.instance.id"]


async def test_a_halted_stream_says_which_token_and_why(collector, make_gateway) -> None:
    top = max(smoothed(PROMPT, ANSWER))
    scoring = scoring_for(BACKBONE, HEAD, top - 1e-3, flag_on="answer")
    gateway = make_gateway(BACKBONE, scoring, telemetry=sending_to(collector))
    reply = Reply([chat_stream([ANSWER])])
    async with relayed(gateway, reply) as (client, _):
        events = events_of(await client.post(CHAT, json=ask(PROMPT, stream=True)))
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
    (row,) = decisions_of(gateway)
    assert row["decision"] == "halt"
    told = attributes_of(collector.one("lockgate.exchange"))
    assert told["lockgate.decision"] == "halt"
    assert told["lockgate.enforced"] is True
    assert told["lockgate.token_index"] == row["token_index"]
    assert told["lockgate.category"] == row["category"]
    assert told["gen_ai.response.finish_reasons"] == ["content_filter"]
    assert attributes_of(collector.one(f"POST {CHAT}"))["lockgate.decision"] == "halt"


async def test_choices_have_a_span_each_and_wait_once(collector, gateway) -> None:
    async with client_for(gateway) as client:
        await client.post(CHAT, json=ask(PROMPT, max_tokens=4, n=3))
    found = [attributes_of(span)["lockgate.exchange.choice"] for span in collector.named("lockgate.exchange")]
    assert sorted(found) == [0, 1, 2]
    assert len(collector.named("lockgate.queue")) == len(collector.named("lockgate.prompt")) == 1
    told = attributes_of(collector.one(f"POST {CHAT}"))
    rows = decisions_of(gateway)
    assert told["gen_ai.usage.input_tokens"] == rows[0]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == sum(row["completion_tokens"] for row in rows)
    assert len(told["gen_ai.response.finish_reasons"]) == 3
    assert told["lockgate.exchange.ids"] == [rows[0]["id"]]


async def test_each_wait_for_a_verdict_is_a_span(collector, make_gateway) -> None:
    scoring, _ = staged(BACKBONE, HEAD, LOUD)
    gateway = make_gateway(BACKBONE, scoring, telemetry=sending_to(collector))
    async with client_for(gateway) as client:
        await client.post(CHAT, json=ask(PROMPT, max_tokens=40))
    (row,) = decisions_of(gateway)
    exchange = collector.one("lockgate.exchange")
    found = [span for span in children_of(collector, exchange) if span.name == "lockgate.verdict"]
    assert len(found) == row["verdicts"] >= 2
    assert all(attributes_of(span) == {"lockgate.verdict.given": True} for span in found)
    assert attributes_of(exchange)["lockgate.verdicts"] == row["verdicts"]
    assert attributes_of(exchange)["lockgate.stage"] == 2


async def test_a_failure_of_the_guard_is_one_of_the_span(collector, make_gateway) -> None:
    scoring, made = staged(BACKBONE, HEAD, LOUD)
    gateway = make_gateway(BACKBONE, scoring, telemetry=sending_to(collector))
    async with client_for(gateway) as client:
        made[0].broken = RuntimeError()
        await client.post(CHAT, json=ask(PROMPT, max_tokens=40))
    exchange = collector.one("lockgate.exchange")
    assert exchange.status.code == FAILED
    assert attributes_of(exchange)["error.type"] == "second stage"
    assert attributes_of(collector.named("lockgate.verdict")[-1]) == {"lockgate.verdict.given": False}


@pytest.mark.parametrize("stream", [True, False])
async def test_the_upstream_gets_the_span_that_asks_it(collector, gateway, stream) -> None:
    body = chat_stream([ANSWER]) if stream else chat_body(ANSWER)
    kind = "text/event-stream" if stream else "application/json"
    async with relayed(gateway, Reply([body], kind=kind), model="big") as (client, upstream):
        headers = {**SENT, "tracestate": "vendor=1"}
        await client.post(CHAT, json=ask(PROMPT, stream=stream), headers=headers)
        await client.post(CHAT, json=ask(PROMPT, stream=stream), headers={"traceparent": "00-1"})
    followed, own = (request["traceparent"].split("-") for request in upstream.headers)
    first, second = sorted(collector.named("chat big"), key=lambda span: span.start_time_unix_nano)
    assert followed == ["00", TRACE, first.span_id.hex(), "01"]
    assert own[:3] == ["00", second.trace_id.hex(), second.span_id.hex()]
    assert own[1] != TRACE
    assert upstream.headers[0]["tracestate"] == "vendor=1"
    server = next(span for span in collector.named(f"POST {CHAT}") if span.trace_id.hex() == TRACE)
    assert first.parent_span_id == server.span_id
    assert first.kind == CLIENT
    told = attributes_of(first)
    assert told["http.response.status_code"] == 200
    assert told["url.full"] == f"{upstream.url}/chat/completions"
    assert told["server.port"] == int(upstream.url.split(":")[2].split("/")[0])
    assert told["gen_ai.request.model"] == "big"
    assert told["gen_ai.provider.name"] == "upstream"


async def test_a_failure_of_the_upstream_is_one_of_its_span(collector, gateway) -> None:
    async with relayed(gateway, Reply([b"{}"], status=500, kind="application/json")) as (client, _):
        await client.post(CHAT, json=ask(PROMPT))
    span = collector.one("chat")
    assert span.status.code == FAILED
    assert attributes_of(span)["error.type"] == "500"
    assert attributes_of(collector.one(f"POST {CHAT}"))["http.response.status_code"] == 500


async def test_a_client_that_leaves_is_told_by_the_exchange(collector, gateway) -> None:
    async with told_by(gateway, Reply([chat_stream(["The lock "])[:-40], 600.0])) as (told, _):
        await eventually(lambda: bool(told.text))
        told.leave()
    (row,) = decisions_of(gateway)
    found = attributes_of(collector.one("lockgate.exchange"))
    assert found["lockgate.decision"] == row["decision"] == "cancelled"
    assert "gen_ai.response.finish_reasons" not in found


async def test_a_fault_of_the_traces_changes_no_answer(make_gateway, collector, monkeypatch, caplog) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("purple-otter")

    for place in ("begin", "add"):
        caplog.clear()
        monkeypatch.setattr(_spans, "_told", False)
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=sending_to(collector))
        with monkeypatch.context() as patch:
            patch.setattr(Spans, place, broken)
            async with relayed(gateway, Reply([chat_body(ANSWER)], kind="application/json")) as (client, _):
                for _ in range(2):
                    response = await client.post(CHAT, json=ask(PROMPT))
                    assert response.json()["choices"][0]["message"]["content"] == ANSWER
        assert [row["decision"] for row in decisions_of(gateway)] == ["pass", "pass"]
        told = [record.getMessage() for record in caplog.records if record.name == "lockgate.telemetry"]
        assert told == ["telemetry: a trace could not be made; requests go on"]


async def test_without_telemetry_the_client_names_the_upstreams_parent(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    async with relayed(gateway, Reply([chat_stream([ANSWER])])) as (client, upstream):
        await client.post(CHAT, json=ask(PROMPT, stream=True), headers=SENT)
    assert upstream.headers[0]["traceparent"] == SENT["traceparent"]


@pytest.mark.parametrize(("share", "flag", "spans"), [(0.0, None, 0), (0.0, "01", 4), (1.0, "00", 0)])
async def test_whoever_begins_a_trace_says_whether_it_is_sent(
    collector, make_gateway, share, flag, spans
) -> None:
    telemetry = sending_to(collector, share=share)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=telemetry)
    headers = {} if flag is None else {"traceparent": f"00-{TRACE}-{PARENT}-{flag}"}
    async with relayed(gateway, Reply([b'{"data": []}'], kind="application/json")) as (client, upstream):
        await client.get("/v1/models", headers=headers)
        await client.post("/v1/moderations", json={"input": "hold"}, headers=headers)
    assert (len(collector.spans) > spans) == (spans > 0)
    sent = upstream.headers[0]["traceparent"].split("-")
    assert (sent[1] == TRACE) == (flag is not None)
    assert int(sent[3], 16) % 2 == int(flag or "00", 16) % 2
    assert decisions_of(gateway)[0]["decision"] == "pass"


async def test_checks_belong_to_the_call_that_began_them(collector, gateway) -> None:
    async with client_for(gateway) as client:
        await client.post("/v1/moderations", json={"input": ["the lock", "the mill"]}, headers=SENT)
    server = collector.one("POST /v1/moderations")
    told = attributes_of(server)
    assert "gen_ai.operation.name" not in told
    rows = decisions_of(gateway)
    assert sorted(told["lockgate.exchange.ids"]) == sorted(row["id"] for row in rows)
    found = [attributes_of(span)["lockgate.exchange.id"] for span in children_of(collector, server)]
    assert sorted(found) == sorted(row["id"] for row in rows)


async def test_mode_off_in_front_of_an_upstream_has_both_spans(collector, tmp_path) -> None:
    options = GatewayOptions(LogOptions(tmp_path / "log.db"), telemetry=sending_to(collector))
    async with scripted_upstream(Reply([b"{}"], kind="application/json")) as upstream:
        table = UpstreamTable({"near": UpstreamOptions(upstream.url)}, {"small": "near"})
        app = create_passing_app(options, Upstreams(table))
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as caller:
                await caller.post(CHAT, json={**ask(PROMPT), "model": "small"}, headers=SENT)
    server, call = collector.one(f"POST {CHAT}"), collector.one("chat small")
    assert call.parent_span_id == server.span_id
    assert upstream.headers[0]["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
    assert attributes_of(call)["gen_ai.provider.name"] == "near"


WORD = st.text(string.ascii_lowercase, min_size=9, max_size=12)


@given(words=st.lists(WORD, min_size=5, max_size=5, unique=True))
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nothing_of_what_clients_or_models_write_is_sent(make_gateway, words) -> None:
    asked, said, model, path, state = words
    with collecting() as collector:
        scoring = scoring_for(BACKBONE, HEAD)
        gateway = make_gateway(BACKBONE, scoring, telemetry=sending_to(collector))
        headers = {"user-agent": state, "tracestate": f"{state}={state}", "baggage": f"a={state}", **SENT}
        async with relayed(gateway, Reply([chat_stream([f"{said} {said}"])])) as (client, _):
            body = {**ask(asked, stream=True), "model": model, "user": model}
            await client.post(CHAT, json=body, headers=headers)
            await client.get(f"/v1/models/{path}?q={path}", headers=headers)
            await client.post(f"/v1/{path}", json=body, headers=headers)
            await client.post("/v1/moderations", json={"input": asked, "model": model}, headers=headers)
            await client.post(CHAT, content=asked, headers=headers)
    assert len(collector.spans) > 5
    assert "/v1/metrics" in collector.bodies
    assert [word for word in words if word.encode() in collector.everything] == []
    assert decisions_of(gateway)[0]["id"].encode() in collector.everything


HEX = "0123456789abcdef"
TRACEPARENTS = st.one_of(
    st.text(max_size=60),
    st.builds(
        "-".join,
        st.tuples(
            *(st.text(HEX, min_size=size, max_size=size) for size in (2, 32, 16, 2)),
        ),
    ),
)


@given(value=TRACEPARENTS, number=st.integers(1, 2))
def test_any_traceparent_gives_a_valid_trace(value, number) -> None:
    sent: list[Any] = []
    tracing = Tracing(1.0, Resource({}), sent.append)
    raw = [(b"traceparent", value.encode("utf-8"))] * number
    trace = tracing.begin({"type": "http", "method": "POST", "path": CHAT, "headers": raw}, "req_1")
    assert trace is not None
    with trace.call("POST", "http://upstream/v1/models", {"tracestate": "a=b"}) as call:
        version, trace_id, span, flags = call.headers["traceparent"].split("-")
    trace.end(CHAT, 200)
    assert (version, len(trace_id), len(span)) == ("00", 32, 16)
    assert int(trace_id, 16) > 0
    assert int(span, 16) > 0
    follows = number == 1 and is_valid(value)
    assert (trace_id == value[3:35]) == follows
    assert ("tracestate" in call.headers) == follows
    sampled = int(flags, 16) % 2 == 1
    assert sampled == (int(value[53:55], 16) % 2 == 1 if follows else True)
    assert len(sent) == 2 * sampled


@pytest.mark.parametrize("headers", [{}, SENT])
def test_a_library_that_is_turned_off_makes_no_span(monkeypatch, headers) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    sent: list[Any] = []
    tracing = Tracing(1.0, Resource({}), sent.append)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    trace = tracing.begin({"type": "http", "method": "POST", "path": CHAT, "headers": raw}, "req_1")
    assert (trace is None) == (not headers)
    if trace is not None:
        with trace.call("POST", "http://upstream/v1/models", headers) as call:
            assert call.headers == headers
        trace.end(CHAT, 200)
    assert sent == []


def is_valid(value: str) -> bool:
    """Whether the standard lets a server follow it."""
    parts = value.split("-")
    if [len(part) for part in parts] != [2, 32, 16, 2] or not set("".join(parts)) <= set(HEX):
        return False
    return parts[0] != "ff" and int(parts[1], 16) > 0 and int(parts[2], 16) > 0
