"""The upstream of `benchmarks.soak`: the model that a request names says what becomes of its answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.tiny import MARK

WORDS = ("The", " keeper", " climbed", " the", " stairs", ",", " lit", " the", " lamp", " and", " wrote", ".")
LENGTH = 48
PAUSE_SECONDS = 0.002
_HEAD = "HTTP/1.1 {} X\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


class BreaksOff(Exception):
    """The connection is to end here, in the middle of an answer."""


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[str]:
    """Run the upstream on a free port. Yield its URL."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=512)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
        asked = json.loads(await reader.readexactly(length))
        await _answer(writer, str(asked.get("model")))
    except (BreaksOff, ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _answer(writer: asyncio.StreamWriter, scenario: str) -> None:
    def part(data: bytes) -> None:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    if scenario == "error":
        writer.write(_HEAD.format(500, "application/json").encode())
        part(b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}')
    else:
        writer.write(_HEAD.format(200, "text/event-stream").encode())
        await _stream(writer, scenario, part)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, scenario: str, part: Callable[[bytes], None]) -> None:
    length = 100 * LENGTH if scenario == "cancel" else LENGTH
    for number in range(length):
        word = WORDS[number % len(WORDS)]
        part(_event({"content": f" {MARK}" if scenario == "halt" and number == LENGTH // 2 else word}))
        if number == LENGTH // 2 and scenario == "break":
            await writer.drain()
            raise BreaksOff
        if number == LENGTH // 2 and scenario == "malformed":
            part(b'data: {"choices": [\n\n')
        await writer.drain()
        await asyncio.sleep(PAUSE_SECONDS)
    part(_event({}, "stop"))
    part(b"data: [DONE]\n\n")


def _event(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "big",
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
