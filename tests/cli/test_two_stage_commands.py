"""Commands around a guard of two stages: score with a block trace, calibrate on the mixed score."""

import json

import numpy as np
import pytest
from classifying import tiny_classifier
from models import random_head, tiny_backbone

from lockgate.cascade import Cascade, Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message, PromptPrints, write_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.traffic import score_once


def make_guard(**stages) -> Guard:
    backbone = tiny_backbone()
    return Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone),
        thresholds=Thresholds(0.5, flag_on="answer"),
        **stages,
    )


ROWS = [
    Exchange((Message("user", f"tell me of lock {i}"), Message("assistant", "boat " * (1 + i % 9))), None)
    for i in range(40)
]


@pytest.fixture
def guard(tmp_path):
    scores = [score.max_score for score in make_guard().score_many(ROWS)]
    half = float(np.median(scores))
    cascade = Cascade(half, 1e9, 0.5, probe_mean=half, probe_std=9.0, classifier_std=3.0, tolerance=1e-3)
    make_guard(classifier=tiny_classifier(), cascade=cascade).save(tmp_path / "guard")
    return tmp_path / "guard"


@pytest.fixture
def traffic(tmp_path):
    write_exchanges(tmp_path / "traffic.jsonl", ROWS)
    return tmp_path / "traffic.jsonl"


@pytest.fixture
def run(capsys, saved_backbone):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*arguments, "--backbone", saved_backbone("llama"), "--json")])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_score_writes_the_block_trace_and_calibrate_reads_mixed_scores(run, guard, traffic, tmp_path) -> None:
    scores, blocks = tmp_path / "scores.parquet", tmp_path / "blocks.parquet"
    code, out, err = run(
        "score", guard, "--input", traffic, "--output", scores, "--blocks", blocks, "--all-blocks"
    )
    assert code == 0, err
    table, trace = ScoresTable.read(scores), BlockTrace.read(blocks)
    summary = json.loads(out)
    assert summary["escalated"] == int((table.floats("stage") == 2).sum())
    assert 0 < summary["escalated"] < 40
    assert len(trace.rows) == 40
    assert not np.isnan(trace.classifier).any()
    code, out, err = run(
        "calibrate", guard, "--scores", scores, "--budget", "0.1", "--output", tmp_path / "new"
    )
    assert code == 0, err
    found = json.loads(out)
    mixed = np.sort(table.floats("mixed_max"))
    assert found["calibration"]["cut"] == mixed[-1 - found["calibration"]["k"]]
    assert all(np.isfinite(row["score"]) for row in found["highest"])
    record = read_bundle(tmp_path / "new").record
    assert record.cascade.flag == found["calibration"]["threshold"]
    assert record.cascade.tolerance == 1e-3
    assert record.thresholds.flag == 0.5


def test_a_guard_of_one_stage_has_no_blocks(run, traffic, tmp_path) -> None:
    one = make_guard().save(tmp_path / "one")
    code, _, err = run(
        "score", one.path, "--input", traffic, "--output", tmp_path / "s.parquet", "--blocks", tmp_path / "b"
    )
    assert code != 0
    assert "one stage" in err


def test_a_file_is_read_once_for_a_guard(guard, traffic, tmp_path, saved_backbone, monkeypatch) -> None:
    loaded = Guard.load(guard, backbone=saved_backbone("llama"))
    table = score_once(loaded, traffic, tmp_path)
    first = ScoresTable.read(table)
    other = loaded.with_training_prompts(PromptPrints.of(ROWS)).save(tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "score_many", None)
        assert ScoresTable.read(score_once(loaded, traffic, tmp_path)).ids == first.ids
        with pytest.raises(TypeError):
            score_once(other, traffic, tmp_path)
    assert score_once(other, traffic, tmp_path) == table
