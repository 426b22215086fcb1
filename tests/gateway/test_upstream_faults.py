"""Each way in which an upstream misbehaves: the client gets all that was cleared, and then a clear end."""

import gzip
import json

import httpx2
import pytest
from relaying import relayed
from scripted_upstream import DONE, Reply, chat_body, chat_stream, delta, event
from serving import CHAT, ask, decisions_of, events_of, scoring_for, text_of

from lockgate.gateway import create_app
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

pytestmark = pytest.mark.anyio

TEXTS = ["The löck", " holds the", " wäter 🙂", ", as it", " should."]
WHOLE = "".join(TEXTS)
STREAM = chat_stream(TEXTS)
UNENDED = b"".join(event(delta(content=text)) for text in TEXTS)
HTML = b"<html><body>secret backend name</body></html>"


@pytest.fixture
def gateway(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


async def streamed(gateway, *replies, **options):
    async with relayed(gateway, *replies, **options) as (client, upstream):
        return await client.post(CHAT, json=ask(stream=True)), upstream


def error_of(response) -> dict:
    """The error at the end of a stream, or of a body."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        return response.json()["error"]
    return events_of(response)[-1]["error"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
async def test_bytes_may_be_split_anywhere(gateway, size, line_end) -> None:
    body = STREAM.replace(b"\n", line_end)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    response, _ = await streamed(gateway, Reply(parts))
    assert text_of(events_of(response)) == WHOLE


@pytest.mark.parametrize(
    "body",
    {
        "no [DONE]": STREAM.removesuffix(DONE),
        "comments": b": hello\n\n" + STREAM.replace(b"\n\n", b"\n\n: keep-alive\n\n"),
        "fields": STREAM.replace(b"data: ", b"id: 7\nretry: 10\nevent: message\ndata:"),
        "usage first": event({"choices": [], "usage": {"total_tokens": 1}}) + STREAM,
        "content null": event(delta(content=None)) + event(delta(role=None)) + STREAM,
        "no delta": event({"choices": [{"index": 0}]}) + STREAM,
        "no index": STREAM.replace(b'"index": 0, ', b""),
        "two ends": STREAM.removesuffix(DONE) + event(delta(0, "length")) + DONE,
        "after [DONE]": STREAM + event(delta(content=" and more")),
        "empty": event({"choices": None}) + STREAM,
    }.items(),
    ids=lambda found: found[0],
)
async def test_oddities_change_nothing(gateway, body) -> None:
    response, _ = await streamed(gateway, Reply([body[1]]))
    events = events_of(response)
    assert text_of(events) == WHOLE
    ends = [
        item["finish_reason"]
        for found in events
        for item in found["choices"] or ()
        if "finish_reason" in item
    ]
    assert [end for end in ends if end] == ["stop"]
    assert [line["decision"] for line in decisions_of(gateway)] == ["pass"]


async def test_compressed_streams_are_read(gateway) -> None:
    reply = Reply([gzip.compress(STREAM)], headers="content-encoding: gzip\r\n")
    response, _ = await streamed(gateway, reply)
    assert text_of(events_of(response)) == WHOLE


BREAKS = {
    "ends early": (Reply([UNENDED]), "upstream_ended"),
    "half an event": (Reply([UNENDED + b'data: {"choi']), "upstream_ended"),
    "breaks off": (Reply([UNENDED], whole=False), "upstream_broke_off"),
    "stalls": (Reply([UNENDED, 30.0]), "upstream_stalled"),
    "sends an error": (Reply([UNENDED + event({"error": {"message": "secret"}})]), "upstream_error"),
    "sends no JSON": (Reply([UNENDED + b"data: {nonsense\n\n"]), "upstream_malformed"),
    "sends a list": (Reply([UNENDED + b"data: [1]\n\n"]), "upstream_malformed"),
    "names a choice that nobody asked for": (
        Reply([UNENDED + event(delta(3, content="x"))]),
        "upstream_malformed",
    ),
    "sends an endless event": (Reply([UNENDED + b"data: " + b"x" * 5000]), "upstream_malformed"),
    "has broken compression": (
        Reply([b"this is no gzip stream"], headers="content-encoding: gzip\r\n"),
        "upstream_malformed",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_off_ends_in_an_error(gateway, name) -> None:
    reply, code = BREAKS[name]
    response, _ = await streamed(gateway, reply, idle_timeout=0.5, max_event_bytes=4000)
    assert "secret" not in response.text
    assert error_of(response)["code"] == code
    line = decisions_of(gateway)[0]
    assert (line["decision"], line["reason"]) == ("cancelled", code)


async def test_a_break_after_the_answers_end_is_none(gateway) -> None:
    response, _ = await streamed(gateway, Reply([STREAM.removesuffix(DONE)], whole=False))
    assert text_of(events_of(response)) == WHOLE


REFUSALS = {
    "JSON": (
        Reply([b'{"error": {"message": "slow down"}}'], 429, "application/json", "retry-after: 7\r\n"),
        429,
    ),
    "HTML": (Reply([HTML], 403, "text/html"), 403),
    "a redirect": (Reply([b""], 307, "text/html", "location: http://127.0.0.1:1/\r\n"), 502),
    "nothing": (Reply([b""], 204, "text/html"), 502),
    "JSON in place of a stream": (Reply([chat_body("hello there")], 200, "application/json"), 502),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_of_the_upstream_is_passed_on(gateway, name, stream) -> None:
    reply, status = REFUSALS[name]
    async with relayed(gateway, reply, retries=0) as (client, _):
        response = await client.post(CHAT, json=ask(stream=stream))
    if name.startswith("JSON in") and not stream:
        assert response.status_code == 200
        return
    assert response.status_code == status
    assert "secret" not in response.text
    assert response.json()["error"]["message"]
    if name == "JSON":
        assert response.json()["error"] == {"message": "slow down"}
        assert response.headers["retry-after"] == "7"


async def test_what_an_error_quotes_of_an_answer_never_leaves(gateway) -> None:
    quoted = {"failed_generation": "secret", "metadata": {"raw": "secret"}, "param": ["secret"]}
    error = {"message": "no such tool", "type": "invalid_request_error", "code": 400, **quoted}
    body = json.dumps({"error": error, "partial": "secret", "request_id": "req_1"}).encode()
    async with relayed(gateway, Reply([body], 400, "application/json")) as (client, _):
        response = await client.post(CHAT, json=ask())
    kept = {"message": "no such tool", "type": "invalid_request_error", "code": 400}
    assert (response.status_code, response.json()) == (400, {"error": kept, "request_id": "req_1"})


@pytest.mark.parametrize("wait", ["\u2603", "-1", "9" * 5000, "soon", ""])
async def test_a_wait_that_is_none_is_left_out(gateway, wait) -> None:
    reply = Reply([b'{"error": "slow down"}'], 429, "application/json", f"retry-after: {wait}\r\n")
    async with relayed(gateway, reply) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert (response.status_code, response.json()) == (429, {"error": "slow down"})
    assert "retry-after" not in response.headers


async def test_a_status_that_is_none_is_not_passed_on(gateway) -> None:
    async with relayed(gateway, Reply([b"{}"], 999, "application/json")) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("body", [b"{nonsense", b"[]", b"{}", b'{"choices": []}', b'{"choices": [1]}', HTML])
async def test_an_answer_that_can_not_be_read_never_leaves(gateway, body) -> None:
    async with relayed(gateway, Reply([body], kind="application/json")) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_malformed"


async def test_an_answer_that_is_too_long_never_leaves(gateway) -> None:
    async with relayed(gateway, Reply([chat_body("x" * 5000)]), max_answer_bytes=4000) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert response.json()["error"]["code"] == "upstream_too_long"


async def test_it_tries_again_before_the_first_byte_only(gateway) -> None:
    replies = [Reply([HTML], 503, "text/html"), Reply([STREAM])]
    response, upstream = await streamed(gateway, *replies)
    assert text_of(events_of(response)) == WHOLE
    assert len(upstream.requests) == 2


async def test_it_does_not_try_again_once_an_answer_has_begun(gateway) -> None:
    _, upstream = await streamed(gateway, Reply([UNENDED], whole=False), Reply([STREAM]))
    assert len(upstream.requests) == 1


async def test_tries_are_bounded(gateway) -> None:
    response, upstream = await streamed(gateway, Reply([HTML], 503, "text/html"), retries=1)
    assert (response.status_code, len(upstream.requests)) == (503, 2)


async def test_an_upstream_that_is_not_there(gateway) -> None:
    app = create_app(gateway, UpstreamClient(UpstreamOptions("http://127.0.0.1:9/v1", retries=0)))
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post(CHAT, json=ask(stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_an_upstream_that_never_answers(gateway) -> None:
    silent = Reply([30.0])
    async with relayed(gateway, silent, first_timeout=5.0, idle_timeout=0.3, retries=0) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert response.status_code == 504
    assert json.loads(response.content)["error"]["code"] in ("upstream_stalled", "upstream_timeout")


async def test_a_whole_answer_is_waited_for(gateway) -> None:
    slow = Reply([chat_body(WHOLE)], 200, "application/json", silence=1.0)
    async with relayed(gateway, slow, first_timeout=20.0, idle_timeout=0.2) as (client, upstream):
        response = await client.post(CHAT, json=ask())
    assert response.json()["choices"][0]["message"]["content"] == WHOLE
    assert len(upstream.requests) == 1, "it was written more than once"


async def test_an_answer_that_does_not_begin_is_given_up(gateway) -> None:
    never = Reply([STREAM], silence=30.0)
    async with relayed(gateway, never, first_timeout=0.3) as (client, upstream):
        response = await client.post(CHAT, json=ask(stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("field", ["return_token_ids", "return_tokens_as_token_ids"])
async def test_ids_of_unread_tokens_are_refused(gateway, path, field) -> None:
    asked = {**ask(), "prompt": "why", field: True}
    async with relayed(gateway, Reply([chat_body(WHOLE)], 200, "application/json")) as (client, upstream):
        response = await client.post(path, json=asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert not upstream.requests
