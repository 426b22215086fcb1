"""Idle connections to a running server: a newcomer is served in spite of them, and they are closed in time.

    python -m benchmarks.idle                    # serves the embedded guard
    python -m benchmarks.idle --connections 1000 --guard DIR --backbone DIR

Opens connections that never send anything, as many as the system allows, and measures a newcomer's request meanwhile.
Prints one JSON object. Exits with 1 if a newcomer waits longer than --bound, or a connection stays open.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.memory import rss_mb

READY_SECONDS = 180
# Descriptors that this process needs besides the connections.
SPARE = 64
# The server closes a connection that has asked for nothing after this time.
HEAD_SECONDS = 10.0
LATER_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=5000, help="idle connections")
    parser.add_argument("--guard", default="embedded", help="as for `lockgate serve`")
    parser.add_argument("--backbone", default="embedded", help="as for `lockgate serve`")
    parser.add_argument(
        "--max-connections", type=int, help="as for `lockgate serve`; by default all are held"
    )
    parser.add_argument("--bound", type=float, default=2.0, help="seconds that a newcomer may wait")
    parser.add_argument("--output", type=Path, help="result file; without it, standard output alone")
    arguments = parser.parse_args()
    allowed = allowed_connections(arguments.connections)
    # If the server holds all of them, they end by the time-out, otherwise also by newcomers.
    most = arguments.max_connections or arguments.connections + SPARE
    options = ["--guard", arguments.guard, "--backbone", arguments.backbone]
    with serving([*options, "--max-connections", str(most)]) as (process, url):
        found = asyncio.run(measure(url, process.pid, allowed))
    found = {"wanted": arguments.connections, "allowed": allowed, "max_connections": most, **found}
    report(found, arguments.output)
    late = max(found["newcomer_s"].values()) > arguments.bound
    sys.exit(late or found["still_open"] > 0)


def allowed_connections(wanted: int) -> int:
    """Raise the limit of descriptors, and return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - SPARE)


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `lockgate serve` on a free port. Yield the process and its URL. It inherits the limit of descriptors."""
    command = [sys.executable, "-m", "lockgate", "serve", "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("the process has no output")
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield process, json.loads(line)["url"]
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


async def measure(url: str, pid: int, connections: int) -> dict[str, Any]:
    """Open the connections, ask as a newcomer, and wait until the server has closed them."""
    address = urlsplit(url)
    host, port = str(address.hostname), int(address.port or 80)
    found: dict[str, Any] = {"rss_mb": {"before": rss_mb(pid)}, "newcomer_s": {"before": await newcomer(url)}}
    begun = time.monotonic()
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for _ in range(0, connections, 100):
        size = min(100, connections - len(opened))
        opened += await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(size)))
    found["open_s"] = round(time.monotonic() - begun, 3)
    found["rss_mb"]["open"] = rss_mb(pid)
    found["newcomer_s"]["meanwhile"] = await newcomer(url)
    found["open_meanwhile"] = sum(not reader.at_eof() for reader, _ in opened)
    closings = await asyncio.gather(*(closed(reader, begun) for reader, _ in opened))
    times = sorted(moment for moment in closings if moment is not None)
    found["closed_after_s"] = {"first": times[0], "last": times[-1]} if times else None
    found["still_open"] = len(closings) - len(times)
    for _, writer in opened:
        writer.close()
    found["newcomer_s"]["after"] = await newcomer(url)
    found["rss_mb"]["after"] = rss_mb(pid)
    return found


async def newcomer(url: str) -> float:
    """Return the seconds of a request on a connection of its own."""
    begun = time.monotonic()
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        (await client.get("/v1/models")).raise_for_status()
    return round(time.monotonic() - begun, 4)


async def closed(reader: asyncio.StreamReader, begun: float) -> float | None:
    """Return when the server has closed a connection, or None if it does not."""
    try:
        async with asyncio.timeout(HEAD_SECONDS + LATER_SECONDS):
            await reader.read(1)
    except TimeoutError:
        return None
    except ConnectionError:
        pass
    return round(time.monotonic() - begun, 3)


def report(found: dict[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file if there is one."""
    text = json.dumps(found, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
