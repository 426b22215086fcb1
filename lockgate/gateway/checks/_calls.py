"""How a call reaches a check: its body, who calls, and what happens if the caller leaves."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from lockgate.gateway._bodies import decode_body, read_body
from lockgate.gateway._clients import caller_of
from lockgate.gateway._errors import ApiError
from lockgate.gateway._gateway import Gateway

T = TypeVar("T")


async def read_call(request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
    """Read the body of a call and let `parse` check it.

    Raises:
        ApiError: the body can't be read or decoded (400, 408, 413, 415, 503), or `parse` raises it.
    """
    gateway: Gateway = request.app.state.gateway
    with gateway.bodies.share() as share:
        body = await read_body(request, share)
        return await gateway.decode(lambda: parse(decode_body(body)))


def owner_of(request: Request) -> str:
    """Return who owns what a call opens: a tenant's key, or an address together with what it has sent as key.

    The names of tenants and keys are no addresses.
    """
    client = caller_of(request)
    if client.tenant:
        return f"tenant {client.tenant} key {client.key}"
    keys = [request.headers.get(name, "") for name in ("authorization", "x-api-key")]
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return f"{client.name} {digest}"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, and cancel it if the client leaves.

    Raises:
        ApiError: the client has left (400). Nobody reads it, but the log has its line.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(400, "The connection ended before the check did.", code="client_left")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
