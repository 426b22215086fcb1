"""Stopped commands leave no process behind, and the same command continues to the same result."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parts import make_exchange, make_guard
from processes import Command

sys.path += [str(Path(__file__).parents[1] / name) for name in ("assembly", "synthesis")]

from build_runs import POLICY, labelled_row, write_rows
from factory_runs import tiny_plan
from fake_endpoint import serving_endpoint
from test_factory_faults import write_reply

from lockgate.backbones import Backbone
from lockgate.cli import main
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


def count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def run_here(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    """The same command in this process, undisturbed."""
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_scoring_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    backbone = saved_backbone("llama")
    make_guard(Backbone.load(backbone)).save(tmp_path / "guard")
    write_exchanges(tmp_path / "rows.jsonl", [make_exchange(i, 5 + i % 20) for i in range(64 * 14)])
    words = ["score", "guard", "--input", "rows.jsonl", "--backbone", backbone, "--output"]
    run_here(tmp_path, monkeypatch, *words, "whole.parquet")
    expected = ScoresTable.read(tmp_path / "whole.parquet")
    parts, stamps = tmp_path / "out.parquet.parts", dict[Path, int]()
    for number in CODES:
        command = start(tmp_path, *words, "out.parquet", "--workers", 2)
        command.wait_for_files(parts, "*.jsonl", len(stamps) + 1)
        stop(command, number, workers=2)
        now = {path: path.stat().st_mtime_ns for path in parts.glob("*.jsonl")}
        # What was finished is not scored again.
        assert stamps.items() <= now.items()
        assert len(stamps) < len(now) < 14
        stamps = now
    run_here(tmp_path, monkeypatch, *words, "out.parquet")
    found = ScoresTable.read(tmp_path / "out.parquet")
    costs = [name for name in expected.table.column_names if name.startswith("cpu_s")]
    assert found.table.drop_columns(costs).equals(expected.table.drop_columns(costs))
    assert not parts.exists()


def test_a_build_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    plan = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})
    words = ["build", "policy.yaml", "--out", "guard", "--plan", "plan.yaml", "--data", "data.jsonl"]
    words += ["--backbone", saved_backbone("llama"), "--workers", 2, "--epochs", 2, "--model", "writer"]
    rows = [labelled_row(i, float(i % 2)) for i in range(64 * 12)]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.yaml").write_text(plan.to_yaml())
        (tmp_path / name / "policy.yaml").write_text(dump_constitution(POLICY))
        write_rows(tmp_path / name / "data.jsonl", rows)
    folder = tmp_path / "stopped"
    with serving_endpoint(manners=lambda body, attempt: write_reply(body)) as endpoint:
        words += ["--generator", endpoint.url]
        run_here(tmp_path / "whole", monkeypatch, *words)
        # The other signals end it as they end scoring, and each stop costs ten seconds.
        command = start(folder, *words)
        command.wait_for_files(folder, "guard.build/windows-*/*/*.json", 1)
        stop(command, signal.SIGKILL, workers=2)
        assert not (folder / "guard").exists()
        last = start(folder, *words)
        last.finish()
        last.assert_nothing_left()
    assert hash_path(folder / "guard") == hash_path(tmp_path / "whole" / "guard")


def test_training_a_probe_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    write_exchanges(tmp_path / "train.jsonl", [labelled_row(i, float(i % 2)) for i in range(1500)])
    words = ["train", "probe", "--input", "train.jsonl", "--backbone", saved_backbone("llama"), "--epochs", 2]
    run_here(tmp_path, monkeypatch, *words, "--output", "whole")
    work, read = tmp_path / "guard.work", 0
    for number in CODES:
        command = start(tmp_path, *words, "--output", "guard")
        command.wait_for_files(work, "windows/*.json", read + 1)
        stop(command, number, workers=0)
        read = count(work, "windows/*.json")
    run_here(tmp_path, monkeypatch, *words, "--output", "guard")
    assert hash_path(tmp_path / "guard") == hash_path(tmp_path / "whole")
    assert not work.exists()
