"""What the gateway adds to an upstream: latency and throughput, without a guard and with it, beside two other servers.

    python -m benchmarks.gateway [--litellm PATH] [--nemo PATH] [--quick]

The upstream is `benchmarks.fast_upstream` on this machine. Every server gets the same load in turn, round by round, so
that a busy machine slows all of them. LiteLLM's proxy and NeMo Guardrails' server run in environments of their own:
`--litellm` and `--nemo` name their commands. NeMo passes answers through without rails. Its command logs every event of
a request, which nothing turns off; the log goes to a file. Writes results/gateway_bench.json.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from lockgate.evaluation import collect_provenance

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "results" / "gateway_bench.json"
LEAKS = ROOT / "results" / "gateway_leaks.json"
SOAK = ROOT / "results" / "gateway_soak.json"
CONVERSATIONS = ROOT / "results" / "conversation_memory.json"
STREAMS = (1, 16, 64)
READY_SECONDS = 120
# Tokens of a step of the server that reads answers in larger steps.
HOLD = 8
# The servers that are measured beside Lockgate.
OTHERS = ("litellm", "nemo")
# LiteLLM's proxy does not start without one.
KEY = f"sk-{secrets.token_hex(32)}"


@dataclass
class Measured:
    """What one round of one server gave: seconds of each request and chunk, tokens/s of each stream, and totals."""

    requests: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    pace: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--litellm", type=Path, help="LiteLLM's command, in its own environment")
    parser.add_argument("--nemo", type=Path, help="NeMo Guardrails' command, in its own environment")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load")
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    parser.add_argument("--output", type=Path, default=TARGET, help="result file")
    parser.add_argument(
        "--gather", action="store_true", help="measure nothing: take over what others have measured since"
    )
    arguments = parser.parse_args()
    if arguments.gather:
        content = json.loads(arguments.output.read_text())
        arguments.output.write_text(json.dumps(gathered(content), indent=1) + "\n")
        return
    rounds = 1 if arguments.quick else arguments.rounds
    with ExitStack() as stack:
        fast = stack.enter_context(upstream(1000.0, 50 if arguments.quick else 200))
        servers = {"direct": fast, "lockgate_off": stack.enter_context(lockgate(fast, "off"))}
        if arguments.litellm:
            servers["litellm"] = stack.enter_context(litellm(arguments.litellm, fast))
        if arguments.nemo:
            servers["nemo"] = stack.enter_context(nemo(arguments.nemo, fast))
        passing = compare(servers, rounds)
    with ExitStack() as stack:
        slow = stack.enter_context(upstream(20.0, 40 if arguments.quick else 200))
        guarded = {
            "direct": slow,
            "lockgate_on": stack.enter_context(lockgate(slow, "enforce")),
            "lockgate_held": stack.enter_context(lockgate(slow, "enforce", hold=HOLD)),
        }
        held = capacity(guarded, "lockgate_on", (1, 2) if arguments.quick else (1, 2, 4, 8, 12, 16, 24))
    content = {"passing": passing, "guarded": held, **summary(passing, held)}
    print(json.dumps(summary(passing, held), indent=1))
    if not arguments.quick:
        content["machine"] = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
        content["provenance"] = collect_provenance(["python", "-m", "benchmarks.gateway"], {}, [])
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


def compare(servers: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    """Load each server with each number of streams, in turn, and describe what it took."""
    found = []
    for url in servers.values():
        # Some servers load what they serve with at their first request.
        asyncio.run(load(url, 1, requests=1))
    for streams in STREAMS:
        seen: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, url in servers.items():
                seen[name].append(asyncio.run(load(url, streams, requests=2)))
        found += [describe(name, streams, one) for name, one in seen.items()]
        print(json.dumps(found[-len(servers) :]), flush=True)
    return found


def capacity(servers: dict[str, str], watched: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Raise the number of streams at 20 tokens/s each, until the guard does not keep pace any more.

    Of the `watched` server, the processor time of its event loop is told beside that of all its threads.
    """
    found = []
    process = listener(servers[watched])
    for streams in numbers:
        for name, url in servers.items():
            before = processor_seconds(process)
            found.append(describe(name, streams, [asyncio.run(load(url, streams, requests=1))]))
            if name == watched:
                loop, whole = (
                    now - then for now, then in zip(processor_seconds(process), before, strict=True)
                )
                found[-1]["processor_s"] = {"event_loop": round(loop, 2), "all": round(whole, 2)}
        print(json.dumps(found[-len(servers) :]), flush=True)
    return found


def listener(url: str) -> int:
    """Return the process that listens at an address of this machine."""
    port = urlsplit(url).port
    found = [
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid is not None
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} processes listen at {url}")
    return int(found[0])


def processor_seconds(process: int) -> tuple[float, float]:
    """Return the processor time of a process's main thread, which runs its event loop, and of all its threads."""
    one = psutil.Process(process)
    main = next(thread for thread in one.threads() if thread.id == process)
    whole = one.cpu_times()
    return main.user_time + main.system_time, whole.user + whole.system


def describe(name: str, streams: int, rounds: Sequence[Measured]) -> dict[str, Any]:
    chunks = [value for one in rounds for value in one.chunks]
    requests = [value for one in rounds for value in one.requests]
    first = [value for one in rounds for value in one.first]
    return {
        "server": name,
        "streams": streams,
        "requests": len(requests),
        "tokens_per_request": round(sum(one.tokens for one in rounds) / len(requests), 2),
        "tokens_per_s": round(median(one.tokens / one.seconds for one in rounds), 1),
        "tokens_per_s_rounds": [round(one.tokens / one.seconds, 1) for one in rounds],
        "requests_per_s": round(median(len(one.requests) / one.seconds for one in rounds), 2),
        "request_ms": quantiles(requests),
        "first_ms": quantiles(first),
        "chunk_ms": quantiles(chunks),
        "slowest_pace": round(min(value for one in rounds for value in one.pace), 2),
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds: nothing for a server that drops the chunks' stamps."""
    if not seconds:
        return {}
    return {f"p{q}": round(1000 * float(np.quantile(seconds, q / 100)), 3) for q in (50, 99)}


def summary(passing: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the documents quote."""
    at = {(row["server"], row["streams"]): row for row in passing}
    off, direct = at["lockgate_off", 1], at["direct", 1]
    ratios = {}
    for name in OTHERS:
        if (name, 64) in at:
            pairs = zip(
                at["lockgate_off", 64]["tokens_per_s_rounds"],
                at[name, 64]["tokens_per_s_rounds"],
                strict=True,
            )
            ratios[name] = round(median(one / other for one, other in pairs), 2)
    guarded = {row["streams"]: row for row in held if row["server"] == "lockgate_on"}
    return {
        "throughput_ratio": ratios,
        "added_ms": {
            f"{kind}_{q}": round(off[f"{kind}_ms"][q] - direct[f"{kind}_ms"][q], 3)
            for kind in ("request", "chunk")
            for q in ("p50", "p99")
        },
        "guarded_streams_at_20_tokens_s": keeping(held, "lockgate_on"),
        "event_loop_share": loop_share(held),
        "guarded_chunk_ms": {str(n): row["chunk_ms"] for n, row in guarded.items()},
        "held": {
            "tokens": HOLD,
            "streams_at_20_tokens_s": keeping(held, "lockgate_held"),
            "chunk_ms": {
                str(row["streams"]): row["chunk_ms"] for row in held if row["server"] == "lockgate_held"
            },
        },
        **by_others(),
    }


def loop_share(held: Sequence[dict[str, Any]]) -> float | None:
    """Return the event loop's share of a guarded server's processor time, over all numbers of streams."""
    spent = [row["processor_s"] for row in held if "processor_s" in row]
    whole = sum(one["all"] for one in spent)
    return round(sum(one["event_loop"] for one in spent) / whole, 3) if whole else None


def keeping(held: Sequence[dict[str, Any]], server: str) -> int:
    """Return how many streams a server carries at once without falling behind the upstream by 5 %."""
    pace = {(row["server"], row["streams"]): row["slowest_pace"] for row in held}
    numbers = [streams for name, streams in pace if name == server]
    return max((n for n in numbers if pace[server, n] >= 0.95 * pace["direct", n]), default=0)


def gathered(content: dict[str, Any]) -> dict[str, Any]:
    """Return a result with the newest figures that other scripts have measured."""
    return {**content, **summary(content["passing"], content["guarded"])}


def by_others() -> dict[str, Any]:
    """Return the figures of the mutants, of the soak and of the memory of conversations, where there are any."""
    leaks, soak, talks = (
        json.loads(path.read_text()) if path.exists() else None for path in (LEAKS, SOAK, CONVERSATIONS)
    )
    found: dict[str, Any] = {}
    if leaks is not None:
        found["mutants"] = {key: leaks[key] for key in ("tried", "killed")}
    if soak is not None:
        found["soak"] = {
            "hours": round(soak["minutes"] / 60, 3),
            "records": sum(soak["decisions"]["found"].values()),
            "lost": soak["decisions"]["lost"],
            "rss_growth_mb": round(soak["rss_mb"]["last"] - soak["rss_mb"]["first"], 2),
        }
    if talks is not None:
        kinds = talks["conversations"]
        # Of the exchanges of attack after attack, and of the benign conversations.
        found["multi_turn"] = {
            f"{name}_{state}": kinds[kind][state][unit]["k"]
            for name, kind, unit in (
                ("harmful_found", "attacks", "exchanges"),
                ("benign_flagged", "benign", "conversations"),
            )
            for state in ("off", "on")
        }
    return found


async def load(url: str, streams: int, requests: int) -> Measured:
    """Run `streams` clients at a time, each with some requests in a row."""
    measured = Measured()
    begun = time.monotonic()
    await asyncio.gather(*(client(url, requests, measured) for _ in range(streams)))
    measured.seconds = time.monotonic() - begun
    return measured


async def client(url: str, requests: int, measured: Measured) -> None:
    where = urlsplit(url)
    body = json.dumps(
        {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "Tell me of the sea."}]}
    ).encode()
    head = (
        f"POST {where.path}/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\nconnection: close\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    for _ in range(requests):
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)
        writer.write(head + body)
        count, started, latest = 0, begun, begun
        # The upstream keeps its connections open, so the end of the stream is what it says.
        while (line := await reader.readline()) and not line.startswith(b"data: [DONE]"):
            if not line.startswith(b'data: {"'):
                continue
            now = time.monotonic()
            chunk = json.loads(line[6:])
            if chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                if not count:
                    measured.first.append(now - begun)
                    started = now
                count, latest = count + 1, now
                if sent := chunk.get("system_fingerprint"):
                    measured.chunks.append(now - int(sent) / 1e9)
        writer.close()
        if not count:
            raise RuntimeError(f"{url} sent no text")
        measured.requests.append(time.monotonic() - begun)
        measured.pace.append((count - 1) / (latest - started))
        measured.tokens += count


@contextmanager
def running(command: Sequence[str], ready: str = "", **environment: str) -> Iterator[str]:
    """Run a server and yield its first line, or `ready` once that address answers."""
    with ExitStack() as stack:
        # Nobody reads on after the first line, and a full pipe would stop the server.
        log = stack.enter_context(tempfile.TemporaryFile()) if ready else None
        process = subprocess.Popen(
            command,
            stdout=log or subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        if ready:
            wait_for(ready)
            yield ready
        else:
            assert process.stdout is not None  # noqa: S101 - asked for above
            yield process.stdout.readline().strip()


def wait_for(url: str) -> None:
    where = urlsplit(url)
    for _ in range(10 * READY_SECONDS):
        try:
            asyncio.run(_touch(str(where.hostname), where.port or 80))
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} did not come up within {READY_SECONDS} s")


async def _touch(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


@contextmanager
def upstream(rate: float, tokens: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.fast_upstream", "--rate", str(rate), "--tokens", str(tokens)]
    with running(command) as url:
        yield url


@contextmanager
def lockgate(fast: str, mode: str, hold: int = 1) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "lockgate",
            "serve",
            "--upstream",
            fast,
            "--mode",
            mode,
            "--port",
            "0",
            "--json",
        ]
        command += ["--hold-tokens", str(hold), "--hold-ms", "1000"]
        command += ["--max-streams", "64", "--max-queue", "256", "--decisions", f"{folder}/decisions.db"]
        with running(command) as line:
            yield json.loads(line)["url"] + "/v1"


@contextmanager
def litellm(command: Path, fast: str) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        model = {"model": "openai/fast", "api_base": fast, "api_key": "none"}
        config.write_text(json.dumps({"model_list": [{"model_name": "fast", "litellm_params": model}]}))
        arguments = [str(command), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        with running(
            arguments,
            f"http://127.0.0.1:{port}/v1",
            LITELLM_TELEMETRY="False",
            LITELLM_MASTER_KEY=KEY,
            LITELLM_LOG="ERROR",
        ) as url:
            yield url


@contextmanager
def nemo(command: Path, fast: str) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pass" / "config.yml"
        config.parent.mkdir()
        parameters = {"base_url": fast, "api_key": "none"}
        model = {"type": "main", "engine": "openai", "model": "fast", "parameters": parameters}
        config.write_text(json.dumps({"models": [model], "passthrough": True}))
        # With a default configuration it takes the same requests as the others.
        arguments = [str(command), "server", "--config", folder, "--default-config-id", "pass"]
        arguments += ["--port", str(port), "--disable-chat-ui"]
        with running(
            arguments,
            f"http://127.0.0.1:{port}/v1",
            NEMO_GUARDRAILS_NO_USAGE_STATS="1",
            DO_NOT_TRACK="1",
        ) as url:
            yield url


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
