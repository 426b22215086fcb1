"""The real openai client against a real server on a loopback port."""

import asyncio
import threading
from contextlib import contextmanager

import openai
import pytest
import uvicorn
from serving import NEVER, REFUSAL, decisions_of, eventually, scoring_for

from lockgate.gateway import bind, create_app, url_of
from lockgate.gateway._server import _Server

MESSAGES = [{"role": "user", "content": "why does the lock hold"}]


@contextmanager
def live(gateway):
    """URL of a running server."""
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        ready = threading.Event()
        config = uvicorn.Config(create_app(gateway), log_level="warning", lifespan="on", ws="none")
        server = _Server(config, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            assert ready.wait(30)
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()


@contextmanager
def client_of(url, **options):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, **options) as client:
        yield client


def create(client, **fields):
    return client.chat.completions.create(model="any", messages=MESSAGES, temperature=0, **fields)


def test_benign_answers_stream_to_the_end(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    with live(gateway) as url, client_of(url) as client:
        assert [model.id for model in client.models.list()] == [backbone.name]
        whole = create(client, max_tokens=20)
        chunks = list(create(client, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


def test_a_halt_reads_as_a_refusal(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head, -NEVER, min_tokens=30))
    with live(gateway) as url, client_of(url) as client:
        whole = create(client, max_tokens=60)
        chunks = list(create(client, max_tokens=60, stream=True))
    assert whole.choices[0].message.content is None
    assert whole.choices[0].message.refusal == REFUSAL
    assert whole.choices[0].finish_reason == "content_filter"
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == REFUSAL
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_errors_are_the_clients_own(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    with live(gateway) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, max_tokens=-1)
        assert caught.value.param == "max_tokens"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
        assert create(client, max_tokens=1).usage.completion_tokens == 1


def test_a_wrong_key_is_an_authentication_error(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), api_key="sesame")
    with live(gateway) as url, client_of(url) as client, pytest.raises(openai.AuthenticationError):
        create(client)


@pytest.mark.anyio
async def test_clients_that_leave_are_cancelled(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), kv_tokens=512)
    with live(gateway) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            stream = await create(client, max_tokens=460, stream=True)
            await anext(aiter(stream))
            await stream.close()
            await eventually(lambda: gateway.engine.kv_used_tokens == 0)
            waiting = asyncio.create_task(create(client, max_tokens=460))
            await eventually(lambda: gateway.engine.active_streams == 1)
            waiting.cancel()
            await eventually(lambda: gateway.engine.kv_used_tokens == 0)
            assert (await create(client, max_tokens=2)).usage.completion_tokens == 2
    assert [line["decision"] for line in decisions_of(gateway)] == ["cancelled", "cancelled", "pass"]


@pytest.mark.anyio
async def test_many_clients_share_steps_and_nothing_else(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    texts = [f"why does gate {number} hold the boat" for number in range(12)]

    async def one(client, text):
        messages = [{"role": "user", "content": text}]
        answer = await client.chat.completions.create(
            model="any", messages=messages, temperature=0, max_tokens=30
        )
        return answer.choices[0].message.content

    with live(gateway) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            alone = [await one(client, text) for text in texts]
            together = await asyncio.gather(*(one(client, text) for text in texts))
    assert list(together) == alone
    lines = decisions_of(gateway)
    first = sorted(line["scores"]["max_answer"] for line in lines[:12])
    assert sorted(line["scores"]["max_answer"] for line in lines[12:]) == pytest.approx(first, abs=1e-3)
