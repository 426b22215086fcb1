"""The other APIs of an upstream: their answers pass unchanged, and each text of them is scored first."""

import json
import math
from typing import Any

import pytest
from relaying import relayed
from scripted_upstream import DONE, Reply, event
from serving import REFUSAL, decisions_of, scoring_for

from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream._completions import CompletionsDialect
from lockgate.gateway.upstream._messages import MessagesDialect

pytestmark = pytest.mark.anyio

TEXTS = ["The lock", " holds the", " water back", ", as it", " should."]
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "big"}
MESSAGES, COMPLETIONS = "/v1/messages", "/v1/completions"


@pytest.fixture
def calm(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


@pytest.fixture
def loud(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head, -math.inf))


def named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **fields})


def message_stream() -> bytes:
    """A message with a thought, a text and a call of a tool."""
    usage = {"input_tokens": 3, "output_tokens": 1}
    head = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "big",
        "content": [],
        "usage": usage,
    }
    blocks = [
        (
            {"type": "thinking", "thinking": ""},
            [{"type": "thinking_delta", "thinking": t} for t in TEXTS[:2]],
        ),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": t} for t in TEXTS]),
        (
            {"type": "tool_use", "id": "toolu_1", "name": "open_lock", "input": {}},
            [{"type": "input_json_delta", "partial_json": t} for t in ('{"gate"', ': "upper"}')],
        ),
    ]
    parts = [named("message_start", message=head), named("ping")]
    for index, (block, deltas) in enumerate(blocks):
        parts.append(named("content_block_start", index=index, content_block=block))
        parts += [named("content_block_delta", index=index, delta=delta) for delta in deltas]
        parts.append(named("content_block_stop", index=index))
    parts.append(
        named("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage=usage)
    )
    return b"".join([*parts, named("message_stop")])


def message_body() -> bytes:
    content = [{"type": "text", "text": "".join(TEXTS)}]
    return json.dumps(
        {**MESSAGE, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": {}}
    ).encode()


def completion(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
    return event(
        {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "big", "choices": [choice]}
    )


COMPLETION = b"".join([*map(completion, TEXTS), completion("", "stop"), DONE])
ASKED = [{"role": "user", "content": "why does the lock hold"}]
ASK_MESSAGE = {"model": "big", "max_tokens": 64, "messages": ASKED}
ASK_COMPLETION = {"model": "big", "prompt": "why does the lock hold"}


def types_of(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def test_a_message_passes_event_by_event(calm) -> None:
    stream = message_stream()
    async with relayed(calm, Reply([stream])) as (client, upstream):
        response = await client.post(MESSAGES, json={**ASK_MESSAGE, "stream": True})
    expected = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
    found = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert found == expected
    assert types_of(response.text) == [part["type"] for part in expected]
    assert upstream.paths == ["/v1/messages"]
    assert [line["decision"] for line in decisions_of(calm)] == ["pass"]


async def test_a_halted_message_ends_as_a_refusal(loud) -> None:
    async with relayed(loud, Reply([message_stream()])) as (client, _):
        response = await client.post(MESSAGES, json={**ASK_MESSAGE, "stream": True})
    assert types_of(response.text)[0] == "message_start"
    assert types_of(response.text)[-2:] == ["message_delta", "message_stop"]
    assert '"stop_reason":"refusal"' in response.text
    assert not any(text.strip() in response.text for text in TEXTS)
    # Each block that was begun is ended.
    assert types_of(response.text).count("content_block_start") == types_of(response.text).count(
        "content_block_stop"
    )


async def test_whole_messages(calm, loud) -> None:
    reply = Reply([message_body()], kind="application/json")
    async with relayed(calm, reply) as (client, _):
        assert (await client.post(MESSAGES, json=ASK_MESSAGE)).content == message_body()
    async with relayed(loud, reply) as (client, _):
        answer = (await client.post(MESSAGES, json=ASK_MESSAGE)).json()
    assert (answer["content"], answer["stop_reason"]) == ([], "refusal")


async def test_errors_have_the_shape_of_their_api(calm) -> None:
    async with relayed(calm, Reply([b"<html>"], 429, "text/html")) as (client, _):
        refused = (await client.post(MESSAGES, json={**ASK_MESSAGE, "messages": []})).json()
        passed = (await client.post(MESSAGES, json=ASK_MESSAGE)).json()
    assert (refused["type"], refused["error"]["type"]) == ("error", "invalid_request_error")
    assert passed["error"]["type"] == "rate_limit_error"


async def test_a_message_that_breaks_off(calm) -> None:
    async with relayed(calm, Reply([message_stream()[:900]])) as (client, _):
        response = await client.post(MESSAGES, json={**ASK_MESSAGE, "stream": True})
    assert types_of(response.text)[-1] == "error"


async def test_a_completion_passes_and_halts(calm, loud) -> None:
    async with relayed(calm, Reply([COMPLETION])) as (client, _):
        passed = await client.post(COMPLETIONS, json={**ASK_COMPLETION, "stream": True})
    chunks = [json.loads(line[6:]) for line in passed.text.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "".join(TEXTS)
    assert passed.text.endswith("data: [DONE]\n\n")
    async with relayed(loud, Reply([COMPLETION])) as (client, _):
        halted = await client.post(COMPLETIONS, json={**ASK_COMPLETION, "stream": True})
    assert not any(text.strip() in halted.text for text in TEXTS)
    assert '"finish_reason":"content_filter"' in halted.text


READ = {
    "a plain turn": ({"messages": [{"role": "user", "content": "MARK"}]}, "user"),
    "a text block": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "MARK"}]}]}, "user"),
    "the system": ({"system": "MARK"}, "system"),
    "blocks of the system": ({"system": [{"type": "text", "text": "MARK"}]}, "system"),
    "tools": ({"tools": [{"name": "f", "description": "MARK"}]}, "system"),
    "an answer": ({"messages": [{"role": "assistant", "content": "MARK"}]}, "assistant"),
    "a thought": (
        {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "MARK"}]}]},
        "assistant",
    ),
    "a call": (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"x": "MARK"}}]}]},
        "assistant",
    ),
    "a result": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "MARK"}]}]},
        "tool",
    ),
    "a document": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "text", "data": "MARK"}}],
                }
            ]
        },
        "user",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_each_text_of_a_request_counts_as_whose_it_is(name) -> None:
    fields, role = READ[name]
    asked = MessagesDialect().read_request({**ASK_MESSAGE, **fields}, "refuse", 8)
    found = [m.role for m in asked.messages if "MARK" in m.content or "MARK" in json.dumps(m.tool_calls)]
    assert found == [role]


def test_images_are_refused_or_counted() -> None:
    image = {"role": "user", "content": [{"type": "image", "source": {}}]}
    with pytest.raises(ApiError, match="images, audio and files are refused"):
        MessagesDialect().read_request({**ASK_MESSAGE, "messages": [image]}, "refuse", 8)
    assert MessagesDialect().read_request({**ASK_MESSAGE, "messages": [image]}, "pass", 8).media == 1


@pytest.mark.parametrize("prompt", [[1, 2], ["a", "b"], None, 7, [[1]]])
def test_prompts_that_the_guard_can_not_read(prompt) -> None:
    with pytest.raises(ApiError, match="prompt"):
        CompletionsDialect().read_request({"prompt": prompt}, "refuse", 8)


@pytest.mark.parametrize("field", ["logprobs", "best_of"])
def test_alternatives_are_refused(field) -> None:
    with pytest.raises(ApiError, match=field):
        CompletionsDialect().read_request({**ASK_COMPLETION, field: 3}, "refuse", 8)


async def test_a_flagged_prompt_is_answered_in_each_shape(make_gateway, backbone, head) -> None:
    gateway = make_gateway(backbone, scoring_for(backbone, head, -math.inf, flag_on="both"))
    async with relayed(gateway, Reply([b""])) as (client, upstream):
        message = await client.post(MESSAGES, json={**ASK_MESSAGE, "stream": True})
        whole = (await client.post(MESSAGES, json=ASK_MESSAGE)).json()
        text = (await client.post(COMPLETIONS, json=ASK_COMPLETION)).json()
    assert upstream.requests == []
    assert types_of(message.text) == ["message_start", "message_delta", "message_stop"]
    assert (whole["type"], whole["stop_reason"]) == ("message", "refusal")
    assert text["choices"][0]["finish_reason"] == "content_filter"
    assert REFUSAL not in text["choices"][0]["text"]
