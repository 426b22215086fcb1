"""Mode `off` in front of an upstream: bytes pass as they are, within limits."""

import gzip
from contextlib import asynccontextmanager

import httpx2
import pytest
from scripted_upstream import DONE, Reply, chat_body, chat_stream, delta, event, scripted_upstream
from serving import CHAT, ask, eventually

from lockgate.decisions import LogOptions
from lockgate.gateway import GatewayOptions, create_passing_app
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

pytestmark = pytest.mark.anyio
ODD = b'data: {"anything": [1, {}]}\n\n: a comment\n\nevent: x\ndata: no JSON at all\n\n'


@asynccontextmanager
async def passing(tmp_path, *replies, api_key=None, **options):
    async with scripted_upstream(*replies) as upstream:
        own = GatewayOptions(LogOptions(tmp_path / "decisions.db"), api_key=api_key)
        app = create_passing_app(own, UpstreamClient(UpstreamOptions(upstream.url, **options)))
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield client, upstream


async def test_bytes_pass_without_being_read(tmp_path) -> None:
    async with passing(tmp_path, Reply([ODD[:10], ODD[10:]])) as (client, upstream):
        response = await client.post(CHAT, json={"whatever": 1})
        assert response.content == ODD
        assert response.headers["content-type"] == "text/event-stream"
    assert upstream.requests == [{"whatever": 1}]
    assert not (tmp_path / "decisions.db").exists()


async def test_compressed_bytes_pass_if_the_client_reads_them(tmp_path) -> None:
    packed = Reply([gzip.compress(chat_body("hello"))], 200, "application/json", "content-encoding: gzip\r\n")
    async with passing(tmp_path, packed) as (client, upstream):
        response = await client.post(CHAT, json=ask(), headers={"accept-encoding": "gzip"})
        assert response.json()["choices"][0]["message"]["content"] == "hello"
    assert upstream.headers[0]["accept-encoding"] == "gzip"


async def test_errors_and_their_wait_pass(tmp_path) -> None:
    busy = Reply([b'{"error": "slow"}'], 429, "application/json", "retry-after: 9\r\nset-cookie: a=b\r\n")
    async with passing(tmp_path, busy) as (client, _):
        response = await client.post(CHAT, json=ask())
    assert (response.status_code, response.json()) == (429, {"error": "slow"})
    assert response.headers["retry-after"] == "9"
    assert "set-cookie" not in response.headers


async def test_a_stream_that_stalls_ends_in_an_error(tmp_path) -> None:
    stuck = Reply([event(delta(content="hello")), 30.0])
    async with passing(tmp_path, stuck, idle_timeout=0.3) as (client, upstream):
        response = await client.post(CHAT, json=ask(stream=True))
        await eventually(lambda: upstream.open == 0)
    assert '"code":"upstream_stalled"' in response.text
    assert response.text.endswith(DONE.decode())


async def test_bodies_are_bounded(tmp_path) -> None:
    async with passing(tmp_path, Reply([DONE])) as (client, upstream):
        response = await client.post(CHAT, json={"text": "x" * (4 << 20)})
    assert response.status_code == 413
    assert upstream.requests == []


async def test_the_own_key_never_reaches_the_upstream(tmp_path) -> None:
    async with passing(tmp_path, Reply([chat_stream(["hello"])]), api_key="sk-own") as (client, upstream):
        assert (await client.post(CHAT, json=ask())).status_code == 401
        response = await client.post(CHAT, json=ask(), headers={"authorization": "Bearer sk-own"})
    assert response.status_code == 200
    assert "authorization" not in upstream.headers[0]


async def test_redirects_are_not_followed(tmp_path) -> None:
    async with scripted_upstream(Reply([DONE])) as other:
        away = Reply([], 307, headers=f"location: {other.url}/chat/completions\r\n")
        async with passing(tmp_path, away) as (client, _):
            response = await client.post(CHAT, json=ask())
        assert other.requests == []
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_redirect")


async def test_models_are_those_of_the_upstream(tmp_path) -> None:
    listed = Reply([b'{"object": "list", "data": [{"id": "org/big", "x": 1}]}'], kind="application/json")
    async with passing(tmp_path, listed) as (client, upstream):
        assert (await client.get("/v1/models")).json()["data"] == [{"id": "org/big", "x": 1}]
        assert (await client.get("/v1/models/org/big")).json() == {"id": "org/big", "x": 1}
        assert (await client.get("/v1/models/..%2F..%2Fsecrets")).status_code == 404
    assert set(upstream.paths) == {"/v1/models"}


async def test_other_paths_of_the_upstream_are_closed(tmp_path) -> None:
    async with passing(tmp_path, Reply([DONE])) as (client, upstream):
        assert (await client.post("/v1/../admin", json={})).status_code == 404
        assert (await client.post("/v1/files", json={})).status_code == 404
    assert upstream.paths == []
