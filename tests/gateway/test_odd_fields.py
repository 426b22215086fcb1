"""Every text of an answer is scored, in whatever field of whatever event it stands."""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import test_responses
import test_upstream_dialects
from relaying import relayed
from scripted_upstream import Reply, chat_body, delta
from serving import CHAT, ask, scoring_for
from test_given import BACKBONE, HEAD

from lockgate.gateway.upstream._chat import ChatDialect
from lockgate.gateway.upstream._client import UpstreamError
from lockgate.gateway.upstream._completions import CompletionsDialect
from lockgate.gateway.upstream._dialect import Dialect, Stopped
from lockgate.gateway.upstream._messages import MessagesDialect
from lockgate.gateway.upstream._responses import ResponsesDialect

MARK = "zebras cross here"
LONG = f"{MARK} " * 8
PROMPT = [{"role": "user", "content": "why"}]
ASKED = {
    "chat": {"messages": PROMPT},
    "completions": {"prompt": "why"},
    "messages": {"messages": PROMPT},
    "responses": {"input": "why"},
}
STOPPED = Stopped("The gates stay shut.", 1, 1)
# Fields that hold no text by definition.
NO_TEXT = {
    *("id", "object", "created", "created_at", "model", "role", "type", "status", "usage", "sequence_number"),
    *("call_id", "item_id", "stop_sequence", "system_fingerprint", "signature", "data"),
    *("instructions", "tools"),
}

ENTRY = {"token": "Yes", "logprob": -0.5, "bytes": [89, 101, 115], "top_logprobs": []}
FUNCTION = {"name": "open_lock", "arguments": '{"gate": 1}'}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": FUNCTION}
CUSTOM = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "sh", "input": "ls"}
SEALED = {"type": "redacted_thinking", "data": "c2VhbGVk"}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"gate": "upper"}}


def events_in(stream: bytes) -> list[dict[str, Any]]:
    lines = stream.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def with_logprobs(chunk: dict[str, Any]) -> dict[str, Any]:
    choice = {**chunk["choices"][0], "logprobs": {"content": [ENTRY], "refusal": None}}
    return {**chunk, "choices": [choice]}


def responses_events() -> list[dict[str, Any]]:
    settings = {"instructions": "Be kind.", "tools": [], "text": {"format": {"type": "text"}}}
    return [
        *events_in(test_responses.stream())[:-1],
        {"type": "response.output_item.added", "output_index": 2, "item": {**CUSTOM, "input": ""}},
        {"type": "response.custom_tool_call_input.done", "output_index": 2, "input": "ls"},
        {"type": "response.output_item.done", "output_index": 2, "item": CUSTOM},
        {"type": "response.completed", "response": {**test_responses.HEAD, **settings, "output": [CUSTOM]}},
    ]


STREAMS: dict[str, tuple[Dialect, list[dict[str, Any]]]] = {
    "chat": (
        ChatDialect(),
        [
            delta(role="assistant", content=""),
            with_logprobs(delta(content="Yes")),
            delta(tool_calls=[CALL]),
            delta(function_call=FUNCTION),
            {**delta(), "choices": [], "usage": {"total_tokens": 3}},
            delta(0, "stop"),
        ],
    ),
    "completions": (CompletionsDialect(), events_in(test_upstream_dialects.COMPLETION)),
    "messages": (
        MessagesDialect(),
        [
            *events_in(test_upstream_dialects.message_stream())[:-2],
            {"type": "content_block_start", "index": 3, "content_block": SEALED},
            {
                "type": "content_block_delta",
                "index": 3,
                "delta": {"type": "signature_delta", "signature": "x"},
            },
            *events_in(test_upstream_dialects.message_stream())[-2:],
        ],
    ),
    "responses": (ResponsesDialect(), responses_events()),
}
WHOLE: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "chat": (ChatDialect(), with_logprobs(json.loads(chat_body("Yes", tool_calls=[CALL])))),
    "completions": (
        CompletionsDialect(),
        {**events_in(test_upstream_dialects.COMPLETION)[0], "usage": {"total_tokens": 3}},
    ),
    "messages": (
        MessagesDialect(),
        {
            **json.loads(test_upstream_dialects.message_body()),
            "content": [
                {"type": "text", "text": "so"},
                {"type": "thinking", "thinking": "hm"},
                TOOL_USE,
                SEALED,
            ],
        },
    ),
    "responses": (
        ResponsesDialect(),
        {**test_responses.HEAD, "status": "completed", "output": [test_responses.ITEM, CUSTOM]},
    ),
}


def changed(value: Any, found: Any = None) -> Iterator[Any]:
    """Each copy of an event in which one field is new, or holds another text, or a text for a number."""
    found = value if found is None else found
    for key in list(found) if isinstance(found, dict) else range(len(found)):
        item = found[key]
        if key in NO_TEXT or (key == "text" and isinstance(item, dict)):
            continue
        if isinstance(item, dict | list):
            yield from changed(value, item)
        if isinstance(item, str | int | float) and item not in ("", True, False):
            found[key] = LONG
            yield copy.deepcopy(value)
            found[key] = item
    if isinstance(found, dict):
        for name, text in (
            ("odd", LONG),
            (LONG, 1),
            ("message", {"content": LONG}),
            ("delta", {"content": LONG}),
        ):
            if name not in found:
                found[name] = text
                yield copy.deepcopy(value)
                del found[name]


def is_read(what: dict[str, Any], read: Any) -> bool:
    """Whether the guard reads the new text, or nobody gets it."""
    try:
        return MARK in read(what)
    except UpstreamError:
        return True


@pytest.mark.parametrize("name", STREAMS)
def test_each_text_of_an_event_is_read_or_never_leaves(name) -> None:
    dialect, events = STREAMS[name]
    asked = dialect.read_request(ASKED[name], "refuse", 1)
    for number, event in enumerate(events):

        def read(odd: dict[str, Any], before: Any = events[:number]) -> str:
            transcript = dialect.open(asked)
            for earlier in before:
                transcript.read("", json.dumps(earlier))
            pieces = transcript.read("", json.dumps(odd))
            leaves = MARK in b"".join(piece.data for piece in pieces).decode()
            return "".join(piece.text for piece in pieces) if leaves else MARK

        for odd in changed(json.loads(json.dumps(event))):
            assert is_read(odd, read), json.dumps(odd)


@pytest.mark.parametrize("name", WHOLE)
def test_each_text_of_a_body_is_read_and_none_is_left_in_a_stopped_one(name) -> None:
    dialect, body = WHOLE[name]
    asked = dialect.read_request(ASKED[name], "refuse", 1)
    for odd in changed(json.loads(json.dumps(body))):
        assert is_read(
            odd, lambda found: "".join(text for _, text in dialect.open(asked).read_whole(found))
        ), json.dumps(odd)
        transcript = dialect.open(asked)
        try:
            transcript.read_whole(odd)
        except UpstreamError:
            continue
        assert MARK not in json.dumps(transcript.stop_whole(odd, {0: STOPPED})), json.dumps(odd)


def replaced(value: Any, found: Any = None) -> Iterator[Any]:
    """Each copy of an event in which one value is of another kind."""
    found = value if found is None else found
    for key in list(found) if isinstance(found, dict) else range(len(found)):
        item = found[key]
        if isinstance(item, dict | list):
            yield from replaced(value, item)
        for odd in (None, True, -1, 1.5, "x", [], [1], [[]], {}, {"a": 1}, [None], [{}]):
            found[key] = odd
            yield copy.deepcopy(value)
        found[key] = item


@pytest.mark.parametrize("name", STREAMS)
def test_an_answer_of_any_shape_is_read_or_is_the_upstreams_fault(name) -> None:
    dialect, events = STREAMS[name]
    asked = dialect.read_request(ASKED[name], "refuse", 1)
    for event in events:
        for odd in replaced(json.loads(json.dumps(event))):
            transcript = dialect.open(asked)
            with contextlib.suppress(UpstreamError):
                for piece in transcript.read("", json.dumps(odd)):
                    transcript.left(piece)
            transcript.halt(0, STOPPED)
    for odd in replaced(json.loads(json.dumps(WHOLE[name][1]))):
        transcript = dialect.open(asked)
        with contextlib.suppress(UpstreamError):
            transcript.read_whole(odd)
            transcript.stop_whole(odd, {0: STOPPED})


@pytest.mark.anyio
async def test_a_field_that_is_named_twice_leaves_as_it_was_read(make_gateway) -> None:
    """Of two fields with one name only the last is read."""
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    body = chat_body("so").replace(b'"content": "so"', b'"content": "zebras", "content": "so"')
    assert b"zebras" in body
    async with relayed(gateway, Reply([body], kind="application/json")) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert response.json()["choices"][0]["message"]["content"] == "so"
    assert "zebras" not in response.text
