"""A scripted upstream that streams fast: the other end of `benchmarks.gateway`.

    python -m benchmarks.fast_upstream --rate 1000 --tokens 200

Prints its URL. Each chunk says when it was sent, in a field that servers pass on, in nanoseconds of this machine's clock.
"""

import argparse
import asyncio
import json
import time

WORDS = ("The", " keeper", " climbed", " the", " stairs", ",", " lit", " the", " lamp", " and", " wrote", ".")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000.0, help="tokens a second of each stream")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.rate, arguments.tokens))


async def serve(rate: float, tokens: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
                await reader.readexactly(length)
                await stream(writer, rate, tokens)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


async def stream(writer: asyncio.StreamWriter, rate: float, tokens: int) -> None:
    writer.write(HEAD)
    begun = time.monotonic()
    for number in range(tokens):
        if (early := begun + number / rate - time.monotonic()) > 0:
            await asyncio.sleep(early)
        write(writer, {"content": WORDS[number % len(WORDS)]}, None)
        await writer.drain()
    write(writer, {}, "stop")
    part(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def write(writer: asyncio.StreamWriter, delta: dict[str, str], reason: str | None) -> None:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fast",
        "system_fingerprint": str(time.monotonic_ns()),
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    part(writer, b"data: " + json.dumps(chunk).encode() + b"\n\n")


def part(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


if __name__ == "__main__":
    main()
