"""Kills of a server under load: no response that a client saw end may lack its decision, and the chains must hold.

    python -m benchmarks.kills --output results/kills.json
    python -m benchmarks.kills --runs 5 --only sqlite

Runs `lockgate serve` with a tiny guard, lets clients stream answers, and kills the process with SIGKILL at a random
moment. Then the log is read: every response that had ended must have its decision. All runs of a database write to the
same log, so that each start goes on from what a kill has left. PostgreSQL is started in a folder of its own.
"""

import argparse
import asyncio
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.idle import report, serving
from benchmarks.tiny import save_marking_guard
from lockgate.decisions import open_log, read_decisions

CLIENTS = 8
# A kill comes this long after the first response has ended, in seconds, at most.
LATEST = 1.0
DATABASES = ("sqlite", "postgres")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="kills for each database")
    parser.add_argument("--only", choices=DATABASES, help="one database alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--output", type=Path, help="result file; without it, standard output alone")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        guard, model = save_marking_guard(Path(folder))
        words = ["--guard", str(guard), "--backbone", str(model), "--threads", "1", "--max-streams", "8"]
        for name in DATABASES if arguments.only is None else (arguments.only,):
            with database(name, Path(folder)) as log:
                found[name] = kill_often(words, log, arguments.runs, draw)
    report({"seed": arguments.seed, "clients": CLIENTS, "kills": found}, arguments.output)
    sys.exit(any(part["lost"] or part["broken"] for part in found.values()))


def kill_often(words: list[str], log: str, runs: int, draw: random.Random) -> dict[str, Any]:
    """Kill servers on one log, and count what is missing in it."""
    ended: set[str] = set()
    for number in range(runs):
        if number % 20 == 0:
            print(f"{number} of {runs} kills", file=sys.stderr, flush=True)
        with serving([*words, "--decisions", log]) as (process, url):
            ended |= asyncio.run(load_until_killed(url, process, draw.uniform(0, LATEST)))
    recorded = {decision.id for decision in read_decisions(log)}
    with open_log(log) as opened:
        checked = opened.verify()
    return {
        "runs": runs,
        "ended": len(ended),
        "lost": len(ended - recorded),
        "broken": len(checked.breaks),
        "chains": len(checked.heads),
        "cut_off": checked.unfinished,
    }


async def load_until_killed(url: str, process: "subprocess.Popen[str]", after: float) -> set[str]:
    """Stream answers, and kill the server some time after the first has ended. Return the ids of ended ones."""
    ended: set[str] = set()
    first = asyncio.Event()
    clients = [asyncio.create_task(keep_asking(url, number, ended, first)) for number in range(CLIENTS)]
    await first.wait()
    await asyncio.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.gather(*clients)
    return ended


async def keep_asking(url: str, number: int, ended: set[str], first: asyncio.Event) -> None:
    """Ask until the server is gone. Half of the clients stream."""
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        turn = 0
        while True:
            turn += 1
            body = {
                "model": "any",
                "messages": [{"role": "user", "content": f"why {number} {turn}"}],
                "max_tokens": 1 + (turn + 3 * number) % 40,
                "stream": number % 2 == 0,
            }
            try:
                identity = await (_stream if body["stream"] else _whole)(client, body)
            except (httpx2.HTTPError, ValueError):
                return
            if identity is not None:
                ended.add(identity)
                first.set()


async def _stream(client: httpx2.AsyncClient, body: dict[str, Any]) -> str | None:
    identity = None
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                identity = chunk["id"]
                # The closing event, not only [DONE]: the client knows now how the answer ended.
                if any(choice["finish_reason"] for choice in chunk["choices"]):
                    return str(identity)
    return None


async def _whole(client: httpx2.AsyncClient, body: dict[str, Any]) -> str | None:
    response = await client.post("/v1/chat/completions", json=body)
    return str(response.json()["id"]) if response.status_code == 200 else None


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """Yield the place of an empty log."""
    if name == "sqlite":
        yield str(folder / "kills.db")
        return
    with postgres_server() as url:
        yield url


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a PostgreSQL server in a folder of its own, on a socket. Yield the address of a database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = str(found[-1]) if found else shutil.which("initdb")
    if named is None:
        raise SystemExit("PostgreSQL is not installed (Debian: apt install postgresql)")
    programs = Path(named).resolve().parent
    root = Path(tempfile.mkdtemp(prefix="lg-pg-"))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    before = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []
    if before:
        shutil.chown(root, user)

    def call(program: str, *words: str) -> None:
        # The server keeps what it inherits open, so its output goes nowhere.
        command = [*before, str(programs / program), *words]
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    try:
        call("initdb", "-D", f"{root}/data", "-A", "trust", "-U", "lockgate", "-E", "UTF8")
        options = f"-k {root} -c listen_addresses=''"
        call("pg_ctl", "-D", f"{root}/data", "-w", "-l", f"{root}/log", "-o", options, "start")
        yield f"postgresql://lockgate@/postgres?host={root}"
        call("pg_ctl", "-D", f"{root}/data", "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
