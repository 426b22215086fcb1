"""Long commands that are stopped leave no process behind, and the same command ends as if they had not been."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import make_exchange, make_guard
from processes import Command

sys.path += [str(Path(__file__).parents[1] / name) for name in ("assembly", "synthesis")]

from build_runs import POLICY, labelled_row, write_rows
from factory_runs import tiny_plan
from fake_endpoint import serving_endpoint
from test_factory_faults import write_reply

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead
from lockgate.constitution import dump_constitution
from lockgate.durable import hash_path
from lockgate.exchanges import write_exchanges
from lockgate.tables import ScoresTable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
Start = Callable[..., Command]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Command] = []

    def start(folder: Path, *words: Any) -> Command:
        started.append(Command("-m", "lockgate", *words, cwd=folder))
        return started[-1]

    yield start
    for command in started:
        command.close()


def stop(command: Command, number: signal.Signals, workers: int) -> None:
    """Stop a command that works, with so many processes besides its own."""
    # Its own, the workers and the tracker that `multiprocessing` runs beside them.
    assert len(command.alive()) >= 1 + workers
    command.send(number)
    assert command.process.wait(30) == CODES[number]
    command.assert_nothing_left()
    assert "Traceback" not in command.errors.read_text()


@pytest.fixture(scope="module")
def scored(tmp_path_factory, saved_backbone) -> tuple[Path, list[Any], ScoresTable]:
    """A folder with what is to be scored, the words of the command, and the table of an undisturbed run."""
    folder = tmp_path_factory.mktemp("scored")
    backbone = saved_backbone("llama")
    make_guard(Backbone.load(backbone)).save(folder / "guard")
    write_exchanges(folder / "rows.jsonl", [make_exchange(i, 10 + i % 50) for i in range(64 * 30)])
    words = ["score", folder / "guard", "--input", folder / "rows.jsonl", "--backbone", backbone]
    words += ["--workers", 2, "--output", "out.parquet"]
    command = Command("-m", "lockgate", *words, cwd=folder)
    try:
        command.finish()
    finally:
        command.close()
    return folder, words, ScoresTable.read(folder / "out.parquet")


@pytest.mark.parametrize("number", CODES)
def test_scoring_leaves_no_process_and_goes_on(scored, start, tmp_path, number) -> None:
    _, words, expected = scored
    first = start(tmp_path, *words)
    parts = tmp_path / "out.parquet.parts"
    first.wait_until(lambda: len(list(parts.glob("*.jsonl"))) >= 2)
    stop(first, number, workers=2)
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.jsonl")}
    assert 2 <= len(done) < 30
    again = start(tmp_path, *words)
    again.wait_until(lambda: len(list(parts.glob("*.jsonl"))) > len(done))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items() if path.exists())
    again.finish()
    again.assert_nothing_left()
    found = ScoresTable.read(tmp_path / "out.parquet")
    costs = [name for name in expected.table.column_names if name.startswith("cpu_s")]
    assert found.table.drop_columns(costs).equals(expected.table.drop_columns(costs))
    assert not parts.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, number) -> None:
    plan = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})
    rows = [labelled_row(i, float(i % 2)) for i in range(64 * 24)]
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        words = ["build", "policy.yaml", "--out", "guard", "--plan", "plan.yaml", "--data", "data.jsonl"]
        words += ["--backbone", saved_backbone("llama"), "--workers", 2, "--epochs", 2]
        words += ["--generator", endpoint.url, "--model", "writer"]
        places = [tmp_path / name for name in ("whole", "stopped")]
        for place in places:
            place.mkdir()
            (place / "plan.yaml").write_text(plan.to_yaml())
            (place / "policy.yaml").write_text(dump_constitution(POLICY))
            write_rows(place / "data.jsonl", rows)
        start(places[0], *words).finish()
        first = start(places[1], *words)
        first.wait_until(lambda: any(places[1].glob("guard.build/windows-*/*/*.json")))
        stop(first, number, workers=2)
        assert not (places[1] / "guard").exists()
        again = start(places[1], *words)
        again.finish()
        again.assert_nothing_left()
    made = [ProbeHead.load(place / "guard" / "probe.safetensors") for place in places]
    np.testing.assert_array_equal(made[0].weights, made[1].weights)
    assert hash_path(places[1] / "guard") == hash_path(places[0] / "guard")


@pytest.mark.parametrize("number", CODES)
def test_training_a_probe_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, number) -> None:
    rows = [labelled_row(i, float(i % 2)) for i in range(900)]
    write_exchanges(tmp_path / "train.jsonl", rows)
    words = ["train", "probe", "--input", "train.jsonl", "--backbone", saved_backbone("llama"), "--epochs", 2]
    start(tmp_path, *words, "--output", "whole").finish()
    first = start(tmp_path, *words, "--output", "guard")
    work = tmp_path / "guard.work"
    first.wait_until(lambda: any(work.glob("windows/*.json")))
    stop(first, number, workers=0)
    assert work.is_dir()
    again = start(tmp_path, *words, "--output", "guard")
    again.finish()
    assert hash_path(tmp_path / "guard") == hash_path(tmp_path / "whole")
    assert not work.exists()
