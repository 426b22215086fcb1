"""Streams through the server for a long time: nothing is stuck, lost or let out, and memory stays.

    python -m benchmarks.soak --minutes 60

`lockgate serve` stands with a tiny model in front of a scripted upstream. Clients stream answers that pass, are halted,
are left by their clients, break off, are malformed or never begin, and prompts that are blocked. Prints one JSON object:
streams that were stuck, decision lines that are missing, marks that got out, and the growth of memory after the warm-up.
Exits with 1 if any stream was stuck, any line is missing, or any mark got out.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from benchmarks.idle import report, serving
from benchmarks.memory import growth_mb_per_hour, rss_mb
from benchmarks.soak_upstream import scripted_upstream
from benchmarks.tiny import MARK, save_marking_guard
from lockgate.decisions import read_decisions

CLIENTS = 6
STUCK_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
WARM_UP = 0.3  # share of the time
# What a client does, how often, and the decision that the log must have for it.
SCENARIOS = {
    "pass": (5, "pass"),
    "halt": (3, "halt"),
    "block": (1, "block"),
    "cancel": (3, "cancelled"),
    "break": (1, "cancelled"),
    "malformed": (1, "cancelled"),
    "error": (1, "cancelled"),
}


@dataclass
class Seen:
    """What the clients have seen: ends of each scenario, and what must not happen."""

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    stuck: int = 0
    leaks: int = 0

    def note(self, scenario: str, end: str) -> None:
        self.ends.setdefault(scenario, Counter())[end] += 1

    @property
    def requests(self) -> int:
        return sum(sum(found.values()) for found in self.ends.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the clients ask")
    parser.add_argument("--seed", type=int, default=0, help="of the order of scenarios")
    parser.add_argument("--output", type=Path, help="result file; without it, standard output alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soak(Path(folder), arguments.minutes * 60, random.Random(arguments.seed)))
    report({"minutes": arguments.minutes, "seed": arguments.seed, **found}, arguments.output)
    sys.exit(bool(found["stuck"] or found["leaks"] or found["decisions"]["lost"] or found["left_open"]))


async def soak(folder: Path, seconds: float, draw: random.Random) -> dict[str, Any]:
    guard, model = save_marking_guard(folder)
    log = folder / "decisions.db"
    options = ["--guard", str(guard), "--backbone", str(model), "--decisions", str(log), "--threads", "1"]
    async with scripted_upstream() as upstream:
        with serving([*options, "--upstream", upstream]) as (process, url):
            seen, samples = Seen(), [(0.0, rss_mb(process.pid))]
            end = time.monotonic() + seconds
            async with httpx2.AsyncClient(base_url=url, timeout=STUCK_SECONDS, trust_env=False) as client:
                sampling = asyncio.create_task(sample(process.pid, samples))
                await asyncio.gather(*(keep_asking(client, seen, end, draw) for _ in range(CLIENTS)))
                sampling.cancel()
                left_open = await open_at_the_end(client)
        # The server has stopped, so the log is whole.
        decisions = compare(seen, [msgspec.to_builtins(found) for found in read_decisions(log)])
    sizes = [size for _, size in samples]
    return {
        "requests": seen.requests,
        "ends": {name: dict(found) for name, found in sorted(seen.ends.items())},
        "stuck": seen.stuck,
        "leaks": seen.leaks,
        "left_open": left_open,
        "decisions": decisions,
        "rss_mb": {"first": sizes[0], "last": sizes[-1], "highest": max(sizes), "samples": len(sizes)},
        "growth_mb_per_hour": growth_mb_per_hour(samples, WARM_UP * seconds),
    }


async def keep_asking(client: httpx2.AsyncClient, seen: Seen, end: float, draw: random.Random) -> None:
    names = list(SCENARIOS)
    weights = [weight for weight, _ in SCENARIOS.values()]
    while time.monotonic() < end:
        [scenario] = draw.choices(names, weights)
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                seen.note(scenario, await ask(client, seen, scenario, draw.randint(1, 20)))
        except (TimeoutError, httpx2.TimeoutException):
            seen.stuck += 1
            seen.note(scenario, "stuck")


async def ask(client: httpx2.AsyncClient, seen: Seen, scenario: str, patience: int) -> str:
    """Ask once and return how it ended. A client that leaves does so after `patience` events."""
    text = f"why {MARK}" if scenario == "block" else "why does the lock hold"
    body = {"model": scenario, "messages": [{"role": "user", "content": text}], "stream": True}
    last, events = "", 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            return f"status {response.status_code}"
        async for line in response.aiter_lines():
            seen.leaks += MARK in line
            if not line.startswith("data: {"):
                continue
            events += 1
            last = end_of(json.loads(line[6:])) or last
            if scenario == "cancel" and events > patience:
                return "left"
    return last or "no end"


def end_of(chunk: dict[str, Any]) -> str | None:
    """Return why an answer is over, if a chunk says so."""
    if "error" in chunk:
        return f"error {chunk['error']['code']}"
    return next((choice["finish_reason"] for choice in chunk["choices"] if choice["finish_reason"]), None)


async def sample(pid: int, samples: list[tuple[float, float]]) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        samples.append((time.monotonic() - begun, rss_mb(pid)))


async def open_at_the_end(client: httpx2.AsyncClient) -> int:
    """Return the streams and key-value tokens that are still held after all clients have their answers."""
    held = 0
    for _ in range(50):
        ready = (await client.get("/readyz")).json()
        held = ready["streams"]["active"] + ready["streams"]["waiting"] + ready["kv_tokens"]["used"]
        if not held:
            break
        await asyncio.sleep(0.1)
    return int(held)


def compare(seen: Seen, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the decision log with what the clients saw."""
    found = Counter(line["decision"] for line in lines)
    expected: Counter[str] = Counter()
    for scenario, ends in seen.ends.items():
        expected[SCENARIOS[scenario][1]] += sum(ends.values())
    return {
        "expected": dict(sorted(expected.items())),
        "found": dict(sorted(found.items())),
        "lost": seen.requests - len(lines),
        "other": sum((found - expected).values()),
    }


if __name__ == "__main__":
    main()
