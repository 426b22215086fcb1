"""Stopped commands that write data leave no process behind, and never ask twice for what was answered."""

import math
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from stopping import Finished, run_here, stop

sys.path += [str(Path(__file__).parents[1] / name) for name in ("assembly", "synthesis")]

from build_runs import POLICY, labelled_row, write_rows
from factory_runs import data_of, tiny_plan
from fake_endpoint import serving_endpoint
from test_factory_faults import write_reply

from lockgate.constitution import dump_constitution
from lockgate.durable import hash_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

PLAN = tiny_plan(
    queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1}, batch_rows=6
)


class Writer:
    """Answers so many requests. It holds the next one until it may answer more, or until it is closed."""

    def __init__(self) -> None:
        self.left, self.go, self.holds = math.inf, threading.Event(), threading.Event()

    def allow(self, number: float) -> None:
        held, self.go, self.holds = self.go, threading.Event(), threading.Event()
        self.left = number
        held.set()

    def close(self) -> None:
        self.allow(math.inf)

    def answer(self, body: dict[str, Any], _attempt: int) -> Response:
        if self.left < 1:
            self.holds.set()
            assert self.go.wait(120)
        else:
            self.left -= 1
        return write_reply(body)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """The same policy and plan twice: for a command that runs undisturbed, and for one that is stopped."""
    found = tmp_path / "whole", tmp_path / "stopped"
    for folder in found:
        folder.mkdir()
        (folder / "plan.yaml").write_text(PLAN.to_yaml())
        (folder / "policy.yaml").write_text(dump_constitution(POLICY))
    return found


@pytest.mark.slow
def test_synthesis_leaves_no_process_and_goes_on(start, folders, monkeypatch) -> None:
    whole, stopped = folders
    words = ["synthesize", "policy.yaml", "--out", "out", "--plan", "plan.yaml", "--model", "writer"]
    words += ["--concurrency", 1, "--generator"]
    writer = Writer()
    with serving_endpoint(manners=writer.answer) as endpoint, closing(writer):
        run_here(whole, monkeypatch, [*words, endpoint.url])
        asked = len(endpoint.bodies)
        endpoint.attempts.clear()
        # Every step but the first one, `source`, which is written anew in each run.
        finished = Finished(stopped / "out" / "work" / "steps", "[!s]*/*.done")
        numbers = (signal.SIGINT, signal.SIGKILL)
        for number in numbers:
            writer.allow(asked // 5)
            command = start(stopped, *words, endpoint.url)
            command.wait_until(writer.holds.is_set)
            stop(command, number)
            finished.look()
        writer.allow(math.inf)
        run_here(stopped, monkeypatch, [*words, endpoint.url])
        finished.look()
        assert len(endpoint.attempts) == asked
        # What was asked when the command was stopped had no answer yet.
        assert endpoint.repeated("writer") == len(numbers)
    assert data_of(stopped / "out") == data_of(whole / "out")


@pytest.mark.slow
def test_a_build_leaves_no_process_and_goes_on(start, folders, saved_backbone, monkeypatch) -> None:
    whole, stopped = folders
    words = ["build", "policy.yaml", "--out", "guard", "--plan", "plan.yaml", "--data", "data.jsonl"]
    words += ["--backbone", saved_backbone("llama"), "--epochs", 2, "--model", "writer"]
    for folder in folders:
        write_rows(folder / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(64 * 8)])
    writer = Writer()
    with serving_endpoint(manners=writer.answer) as endpoint, closing(writer):
        words += ["--concurrency", 1, "--generator", endpoint.url, "--workers"]
        run_here(whole, monkeypatch, [*words, 1])
        endpoint.attempts.clear()
        # While it writes data, and while its processes read rows.
        writer.allow(6)
        command = start(stopped, *words, 2)
        command.wait_until(writer.holds.is_set)
        stop(command, signal.SIGTERM)
        writer.allow(math.inf)
        finished = Finished(stopped / "guard.build", "windows-*/*/*.json")
        finished.stop_at_next(start(stopped, *words, 2), signal.SIGKILL, workers=2)
        assert not (stopped / "guard").exists()
        run_here(stopped, monkeypatch, [*words, 2])
        assert endpoint.repeated("writer") == 1
    assert hash_path(stopped / "guard") == hash_path(whole / "guard")
