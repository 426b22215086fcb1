"""A guard in front of a real server, Lockgate's own engine, asked by the real openai client."""

import asyncio
import math

import openai
import pytest
from live import serving
from models import tiny_backbone
from serving import REFUSAL, decisions_of, scoring_for

from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

MESSAGES = [{"role": "user", "content": "why does the lock hold"}]
ASKED = {"model": "any", "messages": MESSAGES, "temperature": 0}


@pytest.fixture
def plain(make_gateway):
    """The URL of a server that nobody guards. Its model is its own, since each backbone has one owner."""
    with serving(make_gateway(tiny_backbone("llama", seed=5), None)) as url:
        yield f"{url}/v1"


@pytest.fixture
def guarded(make_gateway, backbone, head, plain):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    with serving(gateway, UpstreamClient(UpstreamOptions(plain))) as url:
        yield gateway, f"{url}/v1"


@pytest.fixture
def strict(make_gateway, backbone, head, plain):
    gateway = make_gateway(backbone, scoring_for(backbone, head, -math.inf))
    with serving(gateway, UpstreamClient(UpstreamOptions(plain))) as url:
        yield f"{url}/v1"


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0)


def test_answers_are_those_of_the_upstream(guarded, plain) -> None:
    gateway, url = guarded
    with client_of(plain) as without, client_of(url) as client:
        expected = without.chat.completions.create(**ASKED, max_tokens=12, n=2)
        found = client.chat.completions.create(**ASKED, max_tokens=12, n=2)
        assert [c.message.content for c in found.choices] == [c.message.content for c in expected.choices]
        assert found.usage == expected.usage
        assert [model.id for model in client.models.list()] == [model.id for model in without.models.list()]
        with client.chat.completions.create(**ASKED, max_tokens=12, stream=True) as chunks:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected.choices[0].message.content
    assert [line["decision"] for line in decisions_of(gateway)] == ["pass"] * 3


def test_the_asynchronous_client(guarded) -> None:
    _, url = guarded

    async def ask() -> tuple[str, str | None]:
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            chunks = await client.chat.completions.create(**ASKED, max_tokens=8, stream=True)
            parts = [chunk.choices[0] async for chunk in chunks]
        return "".join(part.delta.content or "" for part in parts), parts[-1].finish_reason

    text, reason = asyncio.run(ask())
    assert text
    assert reason in ("stop", "length")


def test_halts_have_one_shape(strict) -> None:
    with client_of(strict) as client:
        whole = client.chat.completions.create(**ASKED, max_tokens=12).choices[0]
        assert (whole.message.content, whole.message.refusal) == (None, REFUSAL)
        with client.chat.completions.create(**ASKED, max_tokens=12, stream=True) as chunks:
            parts = [chunk.choices[0] for chunk in chunks]
    assert "".join(part.delta.content or "" for part in parts) == ""
    assert "".join(part.delta.refusal or "" for part in parts) == REFUSAL
    assert parts[-1].finish_reason == whole.finish_reason == "content_filter"


def test_errors_of_the_upstream_are_its_own(guarded) -> None:
    with client_of(guarded[1]) as client, pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="any", messages=MESSAGES, temperature=7)
