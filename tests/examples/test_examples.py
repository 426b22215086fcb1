"""The scripts under examples/ do what they say, under a guard that passes and one that halts."""

import ast
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from logs import decisions_in
from processes import Command

import lockgate
from lockgate.cascade import Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.guards import Guard

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPT = "Why does bread rise?"
MIN_TOKENS = 20

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def load() -> Callable[..., Guard]:
    """`lockgate.load`, once for each guard: that takes seconds."""
    return cache(lockgate.load)


@pytest.fixture(scope="module")
def halting(load, tmp_path_factory) -> Path:
    """The embedded guard's probe under a threshold that every answer crosses at its 20th scored token."""
    shipped = load("embedded")
    guard = Guard.create(
        name="halting",
        backbone=shipped.backbone,
        constitution=load_constitution("general-harms"),
        constitution_yaml=constitution_path("general-harms").read_text(encoding="utf-8"),
        head=shipped.head,
        thresholds=Thresholds(-1e6, min_tokens=MIN_TOKENS, flag_on="answer"),
    )
    path = tmp_path_factory.mktemp("examples") / "guard"
    guard.save(path)
    return path


@pytest.fixture
def run(load, monkeypatch, capsys):
    """Runs an example and returns what it printed and its exit code."""
    monkeypatch.setattr(lockgate, "load", load)

    def run_one(name: str, *arguments: object) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as error:
            code = int(error.code or 0)
        return capsys.readouterr().out, code

    return run_one


@pytest.fixture
def serving(preloaded, tmp_path):
    """`lockgate serve` in a process of its own: a context with the URL."""

    @contextmanager
    def serve(guard: object) -> Iterator[str]:
        words = ["serve", "--port", 0, "--threads", 1, "--guard", guard]
        words += ["--decisions", tmp_path / "decisions.db"]
        server = Command("lockgate", *words, cwd=tmp_path, preloaded=preloaded)
        try:
            line = server.first_line()
            assert line.startswith("Lockgate is ready: "), line
            yield line.split()[3]
            server.send(signal.SIGTERM)
            server.process.wait(60)
        finally:
            server.close()

    return serve


@pytest.mark.slow
def test_score_exchange_says_why(run, halting, tmp_path) -> None:
    guard = lockgate.load("embedded")
    said, _ = run("score_exchange.py")
    assert said.startswith("passes\n")
    assert f"threshold: {guard.calibration.threshold:.2f}\n" in said
    file = tmp_path / "exchange.json"
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "yeast " * 40}]
    file.write_text(json.dumps({"messages": messages}))
    score = lockgate.load(halting, backbone=guard.backbone).score(messages)
    said, _ = run("score_exchange.py", file, "--guard", halting)
    assert said.startswith(f"flagged: {score.category}\n")
    assert f"highest score: {score.max_score:.2f}\n" in said
    assert f"flagged at token {score.flag_token}\n" in said
    assert "uncalibrated" in said


@pytest.mark.slow
def test_guard_loop_shows_the_answer_or_only_what_was_released(run, halting) -> None:
    whole, _ = run("guard_loop.py", PROMPT, "--max-tokens", 40)
    assert "halted" not in whole
    assert len(whole.split()) > 15
    said, _ = run("guard_loop.py", PROMPT, "--max-tokens", 40, "--guard", halting)
    shown, _, verdict = said.rpartition("\n[halted: ")
    assert verdict
    assert whole.startswith(shown)
    assert len(shown) < len(whole) / 2


@pytest.mark.slow
def test_chat_client_prints_a_whole_answer(run, serving, tmp_path) -> None:
    with serving("embedded") as url:
        said, code = run("chat_client.py", PROMPT, "--url", f"{url}/v1", "--max-tokens", 30)
    assert code == 0
    assert len(said.split()) > 10
    [decision] = decisions_in(tmp_path / "decisions.db")
    assert (decision["decision"], decision["completion_tokens"]) == ("pass", 30)


def test_chat_client_tells_a_halt_from_an_end(run, serving, halting, tmp_path) -> None:
    with serving(halting) as url:
        said, code = run("chat_client.py", PROMPT, "--url", f"{url}/v1", "--max-tokens", 60)
    assert code == 3
    assert said.splitlines()[-1] == f"[halted] {load_constitution('general-harms').refusal_message}"
    assert decisions_in(tmp_path / "decisions.db")[0]["decision"] == "halt"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_explained(path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
