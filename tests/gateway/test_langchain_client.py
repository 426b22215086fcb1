"""LangChain's real client: in front of a scripted upstream, and Lockgate's own engine."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from answer_cases import Answer, as_bytes, chat, stream_of
from live import serving
from marking import MARK, marking_backbone, marking_guard
from prompt_cases import CHAT
from scripted_upstream import Reply, Scripted, scripted_upstream
from serving import NEVER, REFUSAL, decisions_of, scoring_for

from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

if os.environ.get("LOCKGATE_REQUIRE_LANGCHAIN") == "1":
    import langchain_openai
else:
    langchain_openai = pytest.importorskip(
        "langchain_openai", reason="no LangChain: pip install langchain-openai"
    )

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]
BACKBONE = marking_backbone()
PROMPT = "why does the lock hold"
TEXTS = ["The lock", " holds the", " water back."]
LEAKING = ["The lock", " holds", f" the {MARK} water", " back."]


def open_lock(gate: str) -> str:
    """Open a gate of the lock.

    Args:
        gate: its name.
    """
    return gate


def model_of(url: str, **options: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        base_url=f"{url}/v1", api_key="unused", model="any", max_retries=0, temperature=0, **options
    )


@pytest.fixture
def asking(make_gateway):
    """Makes a model whose answers are `found`, streamed or whole, behind the guard."""

    @asynccontextmanager
    async def connect(found: Answer, *, stream: bool) -> AsyncIterator[tuple[Any, Scripted]]:
        body = stream_of(CHAT, found.events) if stream else as_bytes(found.body or {})
        reply = Reply([body]) if stream else Reply([body], kind="application/json")
        gateway = make_gateway(BACKBONE, marking_guard(BACKBONE))
        async with scripted_upstream(reply) as upstream:
            with serving(gateway, UpstreamClient(UpstreamOptions(upstream.url))) as url:
                yield model_of(url), upstream

    return connect


def spoken(texts: list[str]) -> Answer:
    return chat(*({"content": text} for text in texts), whole={"content": "".join(texts)})


def called(*pieces: str) -> Answer:
    def call(arguments: str, **first: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": "open_lock"} if first else {})}
        return {"tool_calls": [{"index": 0, "function": function, **first}]}

    head = {"id": "call_1", "type": "function"}
    return chat(
        call("", **head), *map(call, pieces), whole={"content": None, **call("".join(pieces), **head)}
    )


async def test_answers_that_pass(asking) -> None:
    async with asking(spoken(TEXTS), stream=False) as (model, _):
        assert (await model.ainvoke(PROMPT)).content == "".join(TEXTS)
    async with asking(spoken(TEXTS), stream=True) as (model, _):
        assert "".join([chunk.content async for chunk in model.astream(PROMPT)]) == "".join(TEXTS)


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_of_tools(asking, stream) -> None:
    async with asking(called('{"gate"', ': "upper"}'), stream=stream) as (model, upstream):
        bound = model.bind_tools([open_lock])
        if stream:
            parts = [chunk async for chunk in bound.astream(PROMPT)]
            found = sum(parts[1:], parts[0])
        else:
            found = await bound.ainvoke(PROMPT)
    assert [(call["name"], call["args"]) for call in found.tool_calls] == [("open_lock", {"gate": "upper"})]
    assert upstream.requests[0]["tools"][0]["function"]["name"] == "open_lock"


async def test_a_halted_answer_holds_a_refusal_and_nothing_else(asking) -> None:
    async with asking(spoken(LEAKING), stream=False) as (model, _):
        found = await model.ainvoke(PROMPT)
    assert (found.content, found.additional_kwargs["refusal"]) == ("", REFUSAL)
    assert found.response_metadata["finish_reason"] == "content_filter"
    assert "lock" not in found.model_dump_json()


async def test_a_halted_stream_keeps_the_text_so_far(asking) -> None:
    async with asking(spoken(LEAKING), stream=True) as (model, _):
        parts = [chunk async for chunk in model.astream(PROMPT)]
    found = sum(parts[1:], parts[0])
    assert found.content == "".join(LEAKING[:2])
    assert found.response_metadata["finish_reason"] == "content_filter"
    assert MARK not in "".join(part.model_dump_json() for part in parts)


async def test_a_halted_call_of_a_tool_is_none(asking) -> None:
    async with asking(called('{"gate": "upper"', f', "why": "{MARK}"}}'), stream=True) as (model, _):
        parts = [chunk async for chunk in model.bind_tools([open_lock]).astream(PROMPT)]
    found = sum(parts[1:], parts[0])
    assert found.response_metadata["finish_reason"] == "content_filter"
    assert MARK not in found.model_dump_json()


async def test_a_flagged_prompt_never_reaches_the_upstream(asking) -> None:
    async with asking(spoken(TEXTS), stream=False) as (model, upstream):
        found = await model.ainvoke(f"why {MARK}")
    assert (found.content, found.additional_kwargs["refusal"]) == ("", REFUSAL)
    assert upstream.requests == []


async def test_lockgates_own_engine(make_gateway, backbone, head) -> None:
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    with serving(gateway) as url:
        model = model_of(url, max_tokens=12)
        whole = await model.ainvoke(PROMPT)
        parts = [chunk async for chunk in model.astream(PROMPT)]
        with pytest.raises(openai.BadRequestError, match="tools"):
            await model.bind_tools([open_lock]).ainvoke(PROMPT)
    assert "".join(part.content for part in parts) == whole.content != ""
    assert whole.usage_metadata["output_tokens"] == 12
    assert [line["decision"] for line in decisions_of(gateway)] == ["pass", "pass"]


async def test_lockgates_own_engine_halts(make_gateway, backbone, head) -> None:
    gateway = make_gateway(backbone, scoring_for(backbone, head, -NEVER, min_tokens=30))
    with serving(gateway) as url:
        model = model_of(url, max_tokens=60)
        whole = await model.ainvoke(PROMPT)
        parts = [chunk async for chunk in model.astream(PROMPT)]
    found = sum(parts[1:], parts[0])
    for one in (whole, found):
        assert one.content == ""
        assert one.response_metadata["finish_reason"] == "content_filter"
    assert whole.additional_kwargs["refusal"] == REFUSAL
