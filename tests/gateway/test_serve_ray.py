"""`lockgate serve-ray` on a local Ray: a scorer that is killed ends its own streams, and no other."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest
from logs import checked, decisions_in
from processes import Command
from scripted_upstream import DONE, Reply, Scripted, delta, event, scripted_upstream
from serving import CHAT, ask

from lockgate.gateway.scorers._sessions import GONE

# CI has Ray and must not leave these out.
pytestmark = pytest.mark.skipif(
    (importlib.util.find_spec("ray") is None or importlib.util.find_spec("aiohttp_cors") is None)
    and os.environ.get("LOCKGATE_REQUIRE_RAY") != "1",
    reason='Ray Serve is not installed: pip install "lockgate[ray]"',
)

FIRST, REST = "the lock holds ", "as long as the mill turns"
CONFIG = """
guard: guard
backbone: model
upstreams: {{up: {{url: "{upstream}"}}}}
log: {{path: decisions.db}}
listen: {{port: {port}, drain_timeout: 20}}
"""


class Upstream:
    """An upstream on a loop of its own. It sends the first part of each answer, and the rest when it may."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._began, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._began.wait(30)

    async def _serve(self) -> None:
        self.may = asyncio.Event()
        head = event(delta(role="assistant", content="")) + event(delta(content=FIRST))
        tail = event(delta(content=REST)) + event(delta(0, "stop")) + DONE
        reply = Reply([head, self.may.wait, tail])
        async with scripted_upstream(reply) as self.script:
            self._began.set()
            await self._over.wait()

    def let(self, on: bool) -> None:
        self._loop.call_soon_threadsafe(self.may.set if on else self.may.clear)

    def close(self) -> None:
        self.let(True)
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        self._loop.close()


@dataclass
class Served:
    """The running app."""

    command: Command
    upstream: Upstream
    url: str
    log: Path

    @property
    def script(self) -> Scripted:
        return self.upstream.script

    def scorers(self) -> set[int]:
        """The processes that hold a model."""
        return self.processes("ray::Core")

    def processes(self, title: str) -> set[int]:
        found = set()
        for process in psutil.Process(self.command.process.pid).children(recursive=True):
            try:
                if process.cmdline()[0].startswith(title):
                    found.add(process.pid)
            except (psutil.Error, IndexError):
                continue
        return found

    async def two_scorers(self) -> None:
        await within(90, lambda: len(self.scorers()) == 2)


@dataclass
class Seen:
    """What a client has seen of a streamed answer."""

    text: str = ""
    refusal: str = ""
    reason: str | None = None
    lines: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            self.text += choice["delta"].get("content") or ""
            self.refusal += choice["delta"].get("refusal") or ""
            self.reason = choice["finish_reason"] or self.reason

    @property
    def whole(self) -> bool:
        return (self.text, self.reason, self.refusal) == (FIRST + REST, "stop", "")


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        await asyncio.sleep(0.05)


async def read(client: httpx2.AsyncClient, seen: Seen) -> Seen:
    async with client.stream("POST", CHAT, json=ask(stream=True)) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line and line != ": ping":
                seen.take(line)
    return seen


def client_of(served: Served) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=served.url, timeout=120, trust_env=False)


@pytest.fixture(scope="module")
def served(folders) -> Iterator[Served]:
    upstream = Upstream()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folders / "lockgate.yaml"
    config.write_text(CONFIG.format(upstream=upstream.script.url, port=port))
    # By default workers step back for everything else, which on a busy machine takes minutes.
    variables = {"RAY_worker_niceness": "0"}
    command = Command("-m", "lockgate", "serve-ray", "--config", config, cwd=folders, variables=variables)
    try:
        command.wait_until(lambda: "\n" in command.output.read_text(), 240)
        assert command.first_line() == (
            f"Lockgate is ready: http://127.0.0.1:{port} (on Ray: gateways 1, scorers 2)\n"
        )
        yield Served(command, upstream, f"http://127.0.0.1:{port}", folders / "decisions.db")
    finally:
        upstream.close()
        left: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(command.process.pid).children(recursive=True)
        command.close()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.slow
def test_a_killed_scorer_halts_its_own_streams_and_the_others_go_on(served) -> None:
    async def run() -> tuple[list[Seen], list[Seen]]:
        served.upstream.let(False)
        async with client_of(served) as client:
            await served.two_scorers()
            four = [Seen() for _ in range(4)]
            tasks = []
            for seen in four:  # one after the other, so that Ray Serve sees how busy each scorer is
                tasks.append(asyncio.create_task(read(client, seen)))
                # What the guard has cleared leaves while the upstream is silent. The last word may wait.
                await within(60, lambda seen=seen: bool(seen.text))
            before = served.scorers()
            dead, other = sorted(before)
            os.kill(dead, signal.SIGKILL)
            await within(60, lambda: any(task.done() for task in tasks))
            late = [Seen(), Seen()]
            served.upstream.let(True)
            await asyncio.gather(*tasks)
            # The survivor takes new requests at once.
            await read(client, late[0])
            # Then there are two again, and the new one reads too.
            await served.two_scorers()
            assert other in served.scorers()
            os.kill(other, signal.SIGKILL)
            await within(60, lambda: other not in served.scorers())
            await read(client, late[1])
            return four, late

    four, late = asyncio.run(run())
    halted = [seen for seen in four if not seen.whole]
    assert 0 < len(halted) < len(four)
    for seen in halted:
        assert (FIRST + REST).startswith(seen.text)
        assert len(seen.text) <= len(FIRST)
        assert (seen.reason, bool(seen.refusal), seen.lines[-1]) == ("content_filter", True, "data: [DONE]")
    for seen in [seen for seen in (*four, *late) if seen not in halted]:
        assert (seen.whole, seen.lines[-1]) == (True, "data: [DONE]"), seen
    found = decisions_in(served.log)
    assert sorted(one["decision"] for one in found) == ["error"] * len(halted) + ["pass"] * (6 - len(halted))
    assert {one["reason"] for one in found if one["decision"] == "error"} == {GONE}
    assert checked(served.log).unfinished == 0


def test_a_client_that_leaves_ends_its_answer(served) -> None:
    async def run() -> None:
        served.upstream.let(False)
        async with client_of(served) as client:
            seen = Seen()
            task = asyncio.create_task(read(client, seen))
            await within(60, lambda: bool(seen.text))
            task.cancel()
            await within(
                60, lambda: [one["decision"] for one in decisions_in(served.log)][-1:] == ["cancelled"]
            )

    asyncio.run(run())


@pytest.mark.slow
def test_a_killed_gateway_breaks_its_streams_off_and_the_log_knows_them(served) -> None:
    before = checked(served.log).unfinished

    async def run() -> tuple[Seen, Seen]:
        served.upstream.let(False)
        async with client_of(served) as client:
            seen, late = Seen(), Seen()
            task = asyncio.create_task(read(client, seen))
            await within(60, lambda: bool(seen.text))
            (gateway,) = served.processes("ray::ServeReplica:lockgate:Proxy")
            os.kill(gateway, signal.SIGKILL)
            with pytest.raises(httpx2.RemoteProtocolError):
                await task
            served.upstream.let(True)
            # Another gateway is started. Its scorers are the same.
            await within(90, lambda: gateway not in served.processes("ray::ServeReplica:lockgate:Proxy"))
            await read(client, late)
            return seen, late

    seen, late = asyncio.run(run())
    assert (seen.reason, "data: [DONE]" in seen.lines) == (None, False)
    assert FIRST.startswith(seen.text)
    assert late.whole
    assert checked(served.log).unfinished == before + 1


@pytest.mark.slow
def test_at_the_end_open_answers_may_end(served) -> None:
    async def run() -> Seen:
        served.upstream.let(False)
        async with client_of(served) as client:
            seen = Seen()
            task = asyncio.create_task(read(client, seen))
            await within(60, lambda: bool(seen.text))
            served.command.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1)
            served.upstream.let(True)
            return await task

    assert asyncio.run(run()).whole
    assert served.command.process.wait(120) == 143, served.command.errors.read_text()
    assert "Traceback" not in served.command.errors.read_text()
    # The chain of a gateway that was killed stays open.
    assert len(checked(served.log).open) <= 1
