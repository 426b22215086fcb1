"""Upstream mode: what the upstream writes reaches the client unchanged, and only after it was cleared."""

import json
import math

import pytest
from relaying import relayed
from scripted_upstream import DONE, Reply, chat_body, chat_stream, delta, event
from serving import CHAT, REFUSAL, ask, decisions_of, events_of, eventually, scoring_for, text_of

pytestmark = pytest.mark.anyio

TEXTS = ["The lock", " holds the", " water back", ", as it", " should."]


@pytest.fixture
def calm(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


@pytest.fixture
def loud(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head, -math.inf))


async def test_a_stream_passes_unchanged(calm) -> None:
    async with relayed(calm, Reply([chat_stream(TEXTS)])) as (client, upstream):
        response = await client.post(CHAT, json=ask(stream=True, odd_field={"kept": [1]}))
    events = events_of(response)
    assert text_of(events) == "".join(TEXTS)
    assert [found["id"] for found in events] == ["up-1"] * len(events)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert upstream.requests[0]["odd_field"] == {"kept": [1]}
    assert [line["decision"] for line in decisions_of(calm)] == ["pass"]


async def test_an_answer_that_is_not_streamed_passes_byte_for_byte(calm) -> None:
    body = chat_body("The lock holds.", reasoning_content="I think so.")
    async with relayed(calm, Reply([body], kind="application/json")) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert response.content == body


async def test_a_flag_stops_the_stream_and_the_upstream(loud) -> None:
    stuck = Reply([chat_stream(TEXTS).removesuffix(DONE), 30.0])
    async with relayed(loud, stuck) as (client, upstream):
        response = await client.post(CHAT, json=ask(stream=True, stream_options={"include_usage": True}))
        events = events_of(response)
        await eventually(lambda: upstream.open == 0)
    assert text_of(events) == ""
    deltas = [item["delta"] for found in events for item in found["choices"]]
    assert {"refusal": REFUSAL} in deltas
    assert [item["finish_reason"] for found in events for item in found["choices"]][-1] == "content_filter"
    assert events[-1]["usage"]["total_tokens"] > 0
    assert [line["decision"] for line in decisions_of(loud)] == ["halt"]


async def test_a_flagged_answer_that_is_not_streamed_is_emptied(loud) -> None:
    reply = Reply([chat_body("The lock holds the water back.")], kind="application/json")
    async with relayed(loud, reply) as (client, _):
        answer = (await client.post(CHAT, json=ask())).json()
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, REFUSAL)
    assert (choice["finish_reason"], answer["model"]) == ("content_filter", "big")


async def test_a_flagged_prompt_never_reaches_the_upstream(make_gateway, backbone, head) -> None:
    gateway = make_gateway(backbone, scoring_for(backbone, head, -math.inf, flag_on="both"))
    async with relayed(gateway, Reply([chat_stream(TEXTS)])) as (client, upstream):
        streamed = await client.post(CHAT, json=ask(stream=True))
        whole = await client.post(CHAT, json=ask())
    assert upstream.requests == []
    assert events_of(streamed)[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert whole.json()["choices"][0]["message"]["refusal"] == REFUSAL


async def test_choices_pass_side_by_side(calm) -> None:
    parts = [event(delta(index, role="assistant", content="")) for index in (0, 1)]
    parts += [event(delta(number % 2, content=f" word{number}")) for number in range(10)]
    parts += [event(delta(1, "length")), event(delta(0, "stop")), DONE]
    async with relayed(calm, Reply([b"".join(parts)])) as (client, _):
        events = events_of(await client.post(CHAT, json=ask(stream=True, n=2)))
    assert text_of(events, 0) == "".join(f" word{number}" for number in range(0, 10, 2))
    assert text_of(events, 1) == "".join(f" word{number}" for number in range(1, 10, 2))


async def test_tool_calls_are_scored_as_files_read_them(calm, backbone, head) -> None:
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "open_lock", "arguments": ""},
    }
    pieces = ['{"gate"', ': "upper', '", "hours": 2}']
    parts = [event(delta(role="assistant", content="I open it.")), event(delta(tool_calls=[call]))]
    parts += [event(delta(tool_calls=[{"index": 0, "function": {"arguments": p}}])) for p in pieces]
    parts += [event(delta(0, "tool_calls")), DONE]
    async with relayed(calm, Reply([b"".join(parts)])) as (client, _):
        events = events_of(await client.post(CHAT, json=ask(stream=True)))
    given = "".join(
        item["delta"]["tool_calls"][0]["function"]["arguments"]
        for found in events
        for item in found["choices"]
        if item["delta"].get("tool_calls")
    )
    assert given == "".join(pieces)
    from test_given import smoothed

    function = {"name": "open_lock", "arguments": "".join(pieces)}
    told = json.dumps([{"id": "call_1", "type": "function", "function": function}])
    line = decisions_of(calm)[0]
    assert line["completion_tokens"] == len(smoothed("why", f"I open it.\n{told}"))


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal", "unheard_of"])
async def test_every_text_of_a_delta_is_scored(loud, field) -> None:
    parts = [event(delta(**{field: text})) for text in TEXTS] + [event(delta(0, "stop")), DONE]
    async with relayed(loud, Reply([b"".join(parts)])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert not any(text.strip() in response.text for text in TEXTS)


async def test_log_probabilities_that_tell_more_are_scored(loud) -> None:
    entries = [{"token": text, "logprob": -1.0, "bytes": None, "top_logprobs": []} for text in TEXTS]
    choice = {"index": 0, "delta": {}, "logprobs": {"content": entries}, "finish_reason": None}
    chunk = {**delta(), "choices": [choice]}
    async with relayed(loud, Reply([event(chunk) + event(delta(0, "stop")) + DONE])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert not any(text.strip() in response.text for text in TEXTS)
