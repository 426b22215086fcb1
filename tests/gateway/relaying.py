"""Helpers for upstream mode: a gateway in front of a scripted upstream, and its client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from scripted_upstream import Reply, Scripted, scripted_upstream

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
