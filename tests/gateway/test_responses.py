"""`/v1/responses` in upstream mode: events pass unchanged, and no text of them leaves unscored."""

import json
import math
from typing import Any

import openai
import pytest
from live import serving
from relaying import relayed
from scripted_upstream import Reply, event, scripted_upstream
from serving import REFUSAL, decisions_of, scoring_for
from test_given import smoothed

from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions
from lockgate.gateway.upstream._responses import ResponsesDialect

pytestmark = pytest.mark.anyio
TEXTS = ["The lock", " holds the", " water back", "."]
WHOLE = "".join(TEXTS)
RESPONSES = "/v1/responses"
ASKED = {"model": "big", "input": "why does the lock hold"}
HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "big", "output": []}
PART = {"type": "output_text", "text": WHOLE, "annotations": []}
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [PART]}
FUNCTION = {"name": "open_lock", "arguments": '{"gate": 1}'}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", **FUNCTION}
SAID = [{"type": "output_text", "text": "MARK"}]


def stream(*, last: str = WHOLE) -> bytes:
    """A response with a message and a call of a tool. `last` is the text that the last event repeats."""
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {**PART, "text": ""}
    said = {**ITEM, "content": [{**PART, "text": last}]}
    steps: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**HEAD, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**ITEM, "content": []}},
        {"type": "response.content_part.added", **at, "part": empty},
        *({"type": "response.output_text.delta", **at, "delta": text, "logprobs": []} for text in TEXTS),
        {"type": "response.output_text.done", **at, "text": WHOLE, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": PART},
        {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
        {"type": "response.output_item.added", "output_index": 1, "item": {**CALL, "arguments": ""}},
        {
            "type": "response.function_call_arguments.delta",
            "item_id": "fc_1",
            "output_index": 1,
            "delta": CALL["arguments"],
        },
        {"type": "response.output_item.done", "output_index": 1, "item": CALL},
        {"type": "response.completed", "response": {**HEAD, "status": "completed", "output": [said, CALL]}},
    ]
    numbered = [{**step, "sequence_number": number} for number, step in enumerate(steps)]
    return b"".join(f"event: {step['type']}\n".encode() + event(step) for step in numbered)


def data_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.fixture
def calm(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


@pytest.fixture
def loud(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head, -math.inf))


async def test_events_pass_unchanged_and_are_read_once(calm) -> None:
    async with relayed(calm, Reply([stream()])) as (client, _):
        response = await client.post(RESPONSES, json={**ASKED, "stream": True})
    assert data_of(response.text) == data_of(stream().decode())
    told = json.dumps([{"id": "call_1", "type": "function", "function": FUNCTION}])
    line = decisions_of(calm)[0]
    assert line["completion_tokens"] == len(smoothed("why", f"{WHOLE}\n{told}"))


async def test_text_that_only_the_last_event_holds_is_scored(calm) -> None:
    async with relayed(calm, Reply([stream(last="and something else")])) as (client, _):
        await client.post(RESPONSES, json={**ASKED, "stream": True})
    told = json.dumps([{"id": "call_1", "type": "function", "function": FUNCTION}])
    assert decisions_of(calm)[0]["completion_tokens"] > len(smoothed("why", f"{WHOLE}\n{told}"))


async def test_a_halt_ends_the_response_as_incomplete(loud) -> None:
    async with relayed(loud, Reply([stream()])) as (client, _):
        response = await client.post(RESPONSES, json={**ASKED, "stream": True})
    events = data_of(response.text)
    assert [found["sequence_number"] for found in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert REFUSAL in [found.get("refusal") for found in events]
    assert "water" not in response.text


async def test_whole_responses(calm, loud) -> None:
    body = json.dumps({**HEAD, "status": "completed", "output": [ITEM]}).encode()
    reply = Reply([body], kind="application/json")
    async with relayed(calm, reply) as (client, _):
        assert (await client.post(RESPONSES, json=ASKED)).content == body
    async with relayed(loud, reply) as (client, _):
        answer = (await client.post(RESPONSES, json=ASKED)).json()
    assert (answer["id"], answer["status"]) == ("resp_1", "incomplete")
    assert answer["output"][0]["content"] == [{"type": "refusal", "refusal": REFUSAL}]


async def test_a_response_that_fails(calm) -> None:
    failed = event({"type": "response.failed", "response": {**HEAD, "error": {"message": "secret"}}})
    async with relayed(calm, Reply([stream()[:600].rpartition(b"event: ")[0] + failed])) as (client, _):
        response = await client.post(RESPONSES, json={**ASKED, "stream": True})
    assert data_of(response.text)[-1]["code"] == "upstream_error"
    assert "secret" not in response.text


@pytest.mark.parametrize("line", [math.inf, -math.inf])
async def test_the_real_client(make_gateway, backbone, head, line) -> None:
    gateway = make_gateway(backbone, scoring_for(backbone, head, line))
    async with scripted_upstream(Reply([stream()])) as upstream:
        with serving(gateway, UpstreamClient(UpstreamOptions(upstream.url))) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
                events = [found async for found in await client.responses.create(**ASKED, stream=True)]
    last = events[-1].response
    if line > 0:
        assert (last.status, last.output_text) == ("completed", WHOLE)
    else:
        assert (last.status, last.output[0].content[0].refusal) == ("incomplete", REFUSAL)


MARKED = {
    "text": ({"input": "MARK"}, "user"),
    "instructions": ({"instructions": "MARK"}, "system"),
    "tools": ({"tools": [{"type": "function", "name": "MARK"}]}, "system"),
    "a message": ({"input": [{"role": "user", "content": "MARK"}]}, "user"),
    "a part": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "MARK"}]}]},
        "user",
    ),
    "a developer": ({"input": [{"role": "developer", "content": "MARK"}]}, "system"),
    "an answer": (
        {"input": [{"type": "message", "role": "assistant", "content": SAID}]},
        "assistant",
    ),
    "a call": ({"input": [{**CALL, "arguments": "MARK"}]}, "assistant"),
    "a result": ({"input": [{"type": "function_call_output", "call_id": "1", "output": "MARK"}]}, "tool"),
    "a thought": (
        {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "MARK"}]}]},
        "assistant",
    ),
}


@pytest.mark.parametrize("name", MARKED)
def test_each_text_of_a_request_counts_as_whose_it_is(name) -> None:
    fields, role = MARKED[name]
    asked = ResponsesDialect().read_request({**ASKED, **fields}, "refuse", 8)
    assert [m.role for m in asked.messages if "MARK" in m.content or "MARK" in json.dumps(m.tool_calls)] == [
        role
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_0"},
        {"conversation": "conv_1"},
        {"background": True},
        {"top_logprobs": 2},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_0"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": []},
        {"input": 7},
        {"stream": "yes"},
    ],
)
def test_what_the_guard_can_not_see_is_refused(fields) -> None:
    with pytest.raises(ApiError) as caught:
        ResponsesDialect().read_request({**ASKED, **fields}, "refuse", 8)
    assert caught.value.status == 400
