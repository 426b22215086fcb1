"""Helpers for upstream mode: a gateway in front of a scripted upstream, and its client."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from scripted_upstream import Reply, Scripted, scripted_upstream
from serving import CHAT, ask

from lockgate.gateway import Gateway, create_app
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions


@asynccontextmanager
async def relayed(
    gateway: Gateway, *replies: Reply, **options: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Scripted]]:
    """A client of the gateway, and the upstream that answers with `replies`. The last one is repeated."""
    async with scripted_upstream(*replies) as upstream:
        client = UpstreamClient(UpstreamOptions(upstream.url, **options))
        app = create_app(gateway, client)
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as caller:
                yield caller, upstream


@asynccontextmanager
async def transported(gateway: Gateway, parts: Sequence[bytes]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway whose upstream answers with `parts`, without sockets."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            await asyncio.sleep(0)
            yield part

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    upstream = UpstreamClient(UpstreamOptions("http://upstream/v1"), httpx2.MockTransport(answer))
    app = create_app(gateway, upstream)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as caller:
            yield caller


class Told:
    """A client that the test plays itself: what it has been told, and the moment at which it leaves."""

    def __init__(self, body: bytes, *, slow: bool) -> None:
        self._body = body
        self._slow = slow
        self._left = asyncio.Event()
        self._asked = False
        self.text = ""

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.text += message.get("body", b"").decode()
        if self._slow and self.text:
            await self._left.wait()


@asynccontextmanager
async def told_by(
    gateway: Gateway, reply: Reply, *, slow: bool = False
) -> AsyncIterator[tuple[Told, Scripted]]:
    """A streamed request that the test can leave at any time. A slow one stops after its first bytes."""
    async with scripted_upstream(reply) as upstream:
        app = create_app(gateway, UpstreamClient(UpstreamOptions(upstream.url)))
        told = Told(json.dumps(ask(stream=True)).encode(), slow=slow)
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
        async with app.router.lifespan_context(app):
            task = asyncio.ensure_future(app({**scope, "app": app}, told.receive, told.send))
            try:
                yield told, upstream
            finally:
                told.leave()
                await task
