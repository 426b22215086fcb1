"""The real anthropic client against a real server on a loopback port, in front of a scripted upstream."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anthropic
import pytest
from answer_cases import Answer, as_bytes, message, stream_of
from live import serving
from marking import MARK, marking_backbone, marking_guard
from prompt_cases import MESSAGES
from scripted_upstream import Reply, Scripted, scripted_upstream

from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

pytestmark = pytest.mark.anyio
BACKBONE = marking_backbone()
TEXTS = ["The lock", " holds the", " water back."]
LEAKING = ["The lock", " holds", f" the {MARK} water", " back."]
ASKED = [{"role": "user", "content": "why does the lock hold"}]
TOOL = {
    "name": "open_lock",
    "description": "opens a gate",
    "input_schema": {"type": "object", "properties": {}},
}
USED = {"type": "tool_use", "id": "toolu_1", "name": "open_lock", "input": {}}


def spoken(texts: Sequence[str]) -> Answer:
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return message({"type": "text", "text": ""}, *deltas, whole={"type": "text", "text": "".join(texts)})


def called(pieces: Sequence[str], whole: dict[str, str]) -> Answer:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return message(USED, *deltas, whole={**USED, "input": whole})


@pytest.fixture
def asking(make_gateway):
    """Makes a client of a server whose upstream gives `found`, streamed or whole."""

    @asynccontextmanager
    async def connect(
        found: Answer, *, stream: bool, key: str | None = None, cut: int | None = None
    ) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, Scripted]]:
        body = stream_of(MESSAGES, found.events) if stream else as_bytes(found.body or {})
        reply = Reply([body[:cut]]) if stream else Reply([body], kind="application/json")
        gateway = make_gateway(BACKBONE, marking_guard(BACKBONE), api_key=key)
        async with scripted_upstream(reply) as upstream:
            with serving(gateway, UpstreamClient(UpstreamOptions(upstream.url))) as url:
                async with anthropic.AsyncAnthropic(base_url=url, api_key="open", max_retries=0) as client:
                    yield client, upstream

    return connect


async def test_a_message_that_passes(asking) -> None:
    async with asking(spoken(TEXTS), stream=False) as (client, upstream):
        found = await client.messages.create(model="big", max_tokens=64, system="be brief", messages=ASKED)
    assert [block.text for block in found.content] == ["".join(TEXTS)]
    assert (found.stop_reason, found.usage.output_tokens) == ("end_turn", 1)
    assert upstream.requests[0]["system"] == "be brief"
    assert "anthropic-version" in upstream.headers[0]


async def test_a_stream_that_passes(asking) -> None:
    async with (
        asking(spoken(TEXTS), stream=True) as (client, _),
        client.messages.stream(model="big", max_tokens=64, messages=ASKED) as stream,
    ):
        assert [text async for text in stream.text_stream] == TEXTS
        final = await stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == ("".join(TEXTS), "end_turn")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_of_a_tool_and_its_result(asking, stream) -> None:
    answer = called(['{"gate"', ': "upper"}'], {"gate": "upper"})
    turns = [
        *ASKED,
        {"role": "assistant", "content": [USED]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "it is open"}],
        },
    ]
    asked = {"model": "big", "max_tokens": 64, "messages": turns, "tools": [TOOL]}
    async with asking(answer, stream=stream) as (client, upstream):
        if stream:
            async with client.messages.stream(**asked) as events:
                found = await events.get_final_message()
        else:
            found = await client.messages.create(**asked)
    assert (found.content[0].name, found.content[0].input) == ("open_lock", {"gate": "upper"})
    assert (upstream.requests[0]["tools"], upstream.requests[0]["messages"]) == ([TOOL], turns)


async def test_a_halted_stream_keeps_the_text_so_far_and_ends_as_a_refusal(asking) -> None:
    async with (
        asking(spoken(LEAKING), stream=True) as (client, _),
        client.messages.stream(model="big", max_tokens=64, messages=ASKED) as stream,
    ):
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert texts == LEAKING[:2]
    assert (final.stop_reason, final.content[0].text) == ("refusal", "".join(texts))
    assert MARK not in final.model_dump_json()


async def test_a_halted_call_of_a_tool_keeps_only_what_was_cleared(asking) -> None:
    answer = called(['{"gate": "upper"', f', "why": "{MARK}"', "}"], {})
    async with (
        asking(answer, stream=True) as (client, _),
        client.messages.stream(model="big", max_tokens=64, messages=ASKED, tools=[TOOL]) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_message()
    assert (final.stop_reason, final.content[0].input) == ("refusal", {"gate": "upper"})
    assert not any(MARK in event.model_dump_json() for event in events)


async def test_a_halted_message_is_empty(asking) -> None:
    async with asking(spoken(LEAKING), stream=False) as (client, _):
        found = await client.messages.create(model="big", max_tokens=64, messages=ASKED)
    assert (found.content, found.stop_reason) == ([], "refusal")
    assert "lock" not in found.model_dump_json()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_flagged_prompt_is_a_refusal_that_the_upstream_never_sees(asking, stream) -> None:
    asked = {"model": "big", "max_tokens": 64, "messages": [{"role": "user", "content": f"why {MARK}"}]}
    async with asking(spoken(TEXTS), stream=stream) as (client, upstream):
        if stream:
            async with client.messages.stream(**asked) as events:
                found = await events.get_final_message()
        else:
            found = await client.messages.create(**asked)
    assert (found.content, found.stop_reason) == ([], "refusal")
    assert upstream.requests == []


async def test_a_stream_that_breaks_off_raises(asking) -> None:
    async with asking(spoken(TEXTS), stream=True, cut=-300) as (client, _):
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(model="big", max_tokens=64, messages=ASKED) as stream:
                await stream.get_final_message()
    assert caught.value.body["error"]["type"] == "api_error"


async def test_errors_are_the_clients_own(asking) -> None:
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    content = [{"type": "image", "source": image}]
    async with asking(spoken(TEXTS), stream=False) as (client, _):
        with pytest.raises(anthropic.BadRequestError, match="images, audio and files are refused"):
            await client.messages.create(
                model="big", max_tokens=8, messages=[{"role": "user", "content": content}]
            )


async def test_the_servers_key_comes_as_anthropic_sends_it(asking) -> None:
    async with asking(spoken(TEXTS), stream=False, key="open") as (client, _):
        await client.messages.create(model="big", max_tokens=8, messages=ASKED)
        with pytest.raises(anthropic.AuthenticationError):
            await client.with_options(api_key="other").messages.create(
                model="big", max_tokens=8, messages=ASKED
            )
