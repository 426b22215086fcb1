"""An upstream that plays a script: raw bytes, pauses and faults, over a real socket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD = (
    "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n"
    "transfer-encoding: chunked\r\n{more}\r\n"
)
STREAM = "text/event-stream"
BASE = {"id": "up-1", "created": 1, "model": "big"}


@dataclass
class Reply:
    """What the upstream answers: parts of a body, with pauses between them.

    Attributes:
        parts: bytes to send, seconds to wait, or something to await.
        whole: whether the body ends as HTTP wants it. Otherwise the connection breaks off.
        silence: seconds before the first byte of the head.
    """

    parts: Sequence[bytes | float | Callable[[], Awaitable[Any]]] = ()
    status: int = 200
    kind: str = STREAM
    headers: str = ""
    whole: bool = True
    silence: float = 0.0


@dataclass
class Scripted:
    """The running upstream: what it was asked, and what it answers next, or by the request."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    choose: Callable[[dict[str, Any]], Reply] | None = None
    open: int = 0
    sent: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.paths.append(head[0].split()[1])
        self.headers.append(headers)
        self.requests.append(json.loads(body) if body else {})
        if self.choose is not None:
            reply = self.choose(self.requests[-1])
        else:
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply.silence:
            await _pause(reader, reply.silence)
        more = reply.headers
        writer.write(HEAD.format(status=reply.status, kind=reply.kind, more=more).encode())
        for part in reply.parts:
            if isinstance(part, bytes):
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.sent += len(part)
                await writer.drain()
            elif isinstance(part, float):
                await _pause(reader, part)
            else:
                await part()
        if reply.whole:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


async def _pause(reader: asyncio.StreamReader, seconds: float) -> None:
    """Wait, unless the other side leaves."""
    with contextlib.suppress(TimeoutError):
        if not await asyncio.wait_for(reader.read(1), seconds):
            raise ConnectionResetError


@asynccontextmanager
async def scripted_upstream(*replies: Reply) -> AsyncIterator[Scripted]:
    """Run an upstream on a free port of this machine."""
    script = Scripted("", list(replies))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield script
    finally:
        server.close()


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": reason}
    return {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "big",
        "choices": [choice],
    }


DONE = b"data: [DONE]\n\n"


def chat_stream(texts: Sequence[str], **fields: Any) -> bytes:
    """The events of a chat completion that says `texts`, as one body."""
    first = event(delta(role="assistant", content=""))
    return first + b"".join(event(delta(content=text)) for text in texts) + event(delta(0, "stop")) + DONE


def chat_body(text: str | None, **message: Any) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = {**BASE, "object": "chat.completion", "choices": [choice]}
    return json.dumps({**body, "usage": usage, "extra": None}).encode()
