"""Stopped commands leave no process behind, and the same command continues to the same result."""

import re
import signal
import sys
from pathlib import Path

import pytest
from judges import planted
from parts import make_exchange, make_guard
from safetensors import safe_open
from stopping import Finished, run_here, stop

sys.path.append(str(Path(__file__).parents[1] / "assembly"))

from build_runs import labelled_row, traffic_row

from lockgate.backbones import Backbone
from lockgate.durable import hash_path
from lockgate.exchanges import write_exchanges
from lockgate.tables import ScoresTable
from lockgate.traffic._files import CHUNK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# So many that no process is done with its share before the command is stopped.
PARTS = 20


@pytest.mark.slow
def test_scoring_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    backbone = saved_backbone("llama")
    make_guard(Backbone.load(backbone)).save(tmp_path / "guard")
    write_exchanges(tmp_path / "rows.jsonl", [make_exchange(i, 5 + i % 20) for i in range(CHUNK * PARTS)])
    words = ["score", "guard", "--input", "rows.jsonl", "--backbone", backbone, "--output"]
    run_here(tmp_path, monkeypatch, [*words, "whole.parquet"])
    expected = ScoresTable.read(tmp_path / "whole.parquet")
    finished = Finished(tmp_path / "out.parquet.parts", "*.jsonl")
    for number, workers in ((signal.SIGTERM, 2), (signal.SIGKILL, 2)):
        command = start(tmp_path, *words, "out.parquet", "--workers", max(1, workers))
        finished.stop_at_next(command, number, workers)
    assert len(finished.stamps) < PARTS
    run_here(tmp_path, monkeypatch, [*words, "out.parquet"])
    found = ScoresTable.read(tmp_path / "out.parquet")
    costs = [name for name in expected.table.column_names if name.startswith("cpu_s")]
    assert found.table.drop_columns(costs).equals(expected.table.drop_columns(costs))
    assert not finished.folder.exists()


@pytest.mark.slow
def test_calibration_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    backbone = saved_backbone("llama")
    make_guard(Backbone.load(backbone)).save(tmp_path / "guard")
    write_exchanges(tmp_path / "traffic.jsonl", [traffic_row(i) for i in range(CHUNK * PARTS)])
    words = ["calibrate", "guard", "--input", "traffic.jsonl", "--backbone", backbone, "--budget", 0.05]
    run_here(tmp_path, monkeypatch, [*words, "--output", "whole"])
    finished = Finished(tmp_path / "out.state", "*.parts/*.jsonl")
    # Both kinds of work: in the command's own process and in others.
    for number, workers in ((signal.SIGKILL, 0), (signal.SIGINT, 2)):
        command = start(tmp_path, *words, "--output", "out", "--workers", max(1, workers))
        finished.stop_at_next(command, number, workers)
    assert len(finished.stamps) < PARTS
    assert not (tmp_path / "out").exists()
    run_here(tmp_path, monkeypatch, [*words, "--output", "out"])
    assert hash_path(tmp_path / "out") == hash_path(tmp_path / "whole")
    assert not finished.folder.exists()


@pytest.mark.slow
def test_training_a_probe_leaves_no_process_and_goes_on(start, tmp_path, saved_backbone, monkeypatch) -> None:
    write_exchanges(tmp_path / "train.jsonl", [labelled_row(i, float(i % 2)) for i in range(1200)])
    words = ["train", "probe", "--input", "train.jsonl", "--backbone", saved_backbone("llama"), "--epochs", 2]
    run_here(tmp_path, monkeypatch, [*words, "--output", "whole"])
    finished = Finished(tmp_path / "guard.work", "windows/*.json")
    for number in (signal.SIGTERM, signal.SIGKILL):
        finished.stop_at_next(start(tmp_path, *words, "--output", "guard"), number)
    run_here(tmp_path, monkeypatch, [*words, "--output", "guard"])
    assert hash_path(tmp_path / "guard") == hash_path(tmp_path / "whole")
    assert not finished.folder.exists()


@pytest.mark.slow
def test_training_a_classifier_leaves_no_process_and_goes_on(
    start, tmp_path, saved_backbone, monkeypatch
) -> None:
    write_exchanges(tmp_path / "train.jsonl", [planted(i, float(i % 2)) for i in range(40)])
    words = ["train", "classifier", "--input", "train.jsonl", "--backbone", saved_backbone("llama")]
    words += ["--layers", 1, "--rank", 2, "--max-tokens", 100, "--words", "y,n"]
    words += ["--tokens-per-step", 200, "--tokens", 24_000]
    run_here(tmp_path, monkeypatch, [*words, "--output", "whole"])
    done = 0
    for number in (signal.SIGINT, signal.SIGKILL):
        command = start(tmp_path, *words, "--output", "judge")
        command.wait_until(lambda done=done: steps_done(tmp_path / "judge.state") > done)
        stop(command, number)
        assert_goes_on(command.errors.read_text(), done)
        done = steps_done(tmp_path / "judge.state")
    assert not (tmp_path / "judge").exists()
    last = start(tmp_path, *words, "--output", "judge")
    last.finish()
    last.assert_nothing_left()
    assert_goes_on(last.errors.read_text(), done)
    assert hash_path(tmp_path / "judge") == hash_path(tmp_path / "whole")
    assert not (tmp_path / "judge.state").exists()


def steps_done(state: Path) -> int:
    """Finished steps of a classifier's training, as its checkpoint says."""
    if not state.exists():
        return 0
    with safe_open(state, framework="pt") as file:
        return int(file.metadata()["done"])


def assert_goes_on(said: str, done: int) -> None:
    """The first step that a training reports comes after the finished ones."""
    first = re.search(r"train: step (\d+)/(\d+)", said)
    assert first is not None
    assert int(first[1]) == done + 1 < int(first[2])
