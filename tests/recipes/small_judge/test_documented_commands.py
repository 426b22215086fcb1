"""The commands of `docs/own-judge.md` run as they stand there, on fewer exchanges and a free port."""

import re
import shlex
import socket
from pathlib import Path

import httpx2
import pytest
from processes import ROOT, Command

from lockgate.guards import read_bundle
from lockgate.traffic import ScoreThreshold

PAGE = ROOT / "docs" / "own-judge.md"
FEWER = {"--traffic": "30", "--development": "12"}


def commands() -> list[tuple[list[str], bool]]:
    """The commands of the console blocks, as a shell splits them, and whether each runs beside the next."""
    found = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    text = "".join(found).replace("\\\n", " ")
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return [(shlex.split(line.removesuffix("&")), line.endswith("&")) for line in lines]


def runnable(words: list[str], port: int) -> list[str]:
    """A command's arguments for this Python: fewer exchanges, shares that they carry, and a free port."""
    if "recipes.small_judge.make" in words:
        words = [*words, *(part for pair in FEWER.items() for part in pair)]
    if "embedded" in words:
        # Of so few exchanges 2.5 % are too few to choose a weight with.
        words = [*words, "--escalation", "0.9"]
    if "serve" in words and "--port" not in words:
        words = [*words, "--port", "8100"]
    changed = {"0.001": "0.1", "8100": str(port)}
    words = [changed.get(word, word) for word in words]
    return words[1:] if words[0] == "python" else ["-m", "lockgate", *words[1:]]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.embedded
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """A clean folder, the embedded weights, and nothing else: both kinds of judge get their thresholds."""
    written = commands()
    assert [words[1] for words, _ in written].count("calibrate") == 3
    port, beside = free_port(), []
    try:
        for words, stays in written:
            command = Command(*runnable(words, port), cwd=tmp_path)
            if "serve" not in words:
                command.finish()
                if "recipes.small_judge.make" in words:
                    file = tmp_path / "demo" / "endpoint.yaml"
                    file.write_text(file.read_text().replace("8100", str(port)))
                continue
            beside.append(command)
            command.wait_until(lambda: answers(port))
            if not stays:
                beside.pop().close()
    finally:
        for command in beside:
            command.close()
    local, endpoint = (
        ScoreThreshold.read(tmp_path / "demo" / name) for name in ("judge.json", "endpoint.json")
    )
    assert (local.n, endpoint.n) == (30, 30)
    assert read_bundle(tmp_path / "demo" / "guard").record.judges == ("judge",)
