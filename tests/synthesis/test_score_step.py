"""Scores of a guard as a step of a pipeline."""

from dataclasses import replace

import pytest
import torch
from models import tiny_backbone
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.errors import GuardError
from lockgate.exchanges import Message
from lockgate.synthesis import LocalExecutor, Pipeline, StepContext
from lockgate.synthesis.scoring import ScoreStep


@pytest.fixture
def saved(tmp_path, saved_backbone):
    """Path of a guard, the path of its backbone, and the guard. Its template wants roles that alternate."""
    path = saved_backbone("gemma2")
    guard = make_guard(Backbone.load(path)).save(tmp_path / "guard")
    return tmp_path / "guard", path, guard


def test_rows_get_the_scores_that_the_guard_gives(saved, tmp_path) -> None:
    path, backbone, guard = saved
    exchanges = [make_exchange(number) for number in range(5)]
    step = ScoreStep("score", path, backbone=backbone, batch_rows=2)
    threads = torch.get_num_threads()
    result = Pipeline([step], tmp_path / "run", executor=LocalExecutor()).run(exchanges)
    assert torch.get_num_threads() == threads
    rows = list(result.rows())
    expected = [guard.score(exchange.messages) for exchange in exchanges]
    for row, score in zip(rows, expected, strict=True):
        found = row.meta["scores"]
        assert found["probe_max"] == pytest.approx(score.max_score, abs=1e-3)
        assert found["max_answer"] == pytest.approx(score.max_answer, abs=1e-3)
        assert found["flagged"] == score.flagged
        assert found["classifier_max"] is None
    assert result.steps[0].counters["flagged"] == sum(score.flagged for score in expected)


def test_a_prompt_alone_is_scored_and_an_unreadable_row_dropped(saved, tmp_path) -> None:
    path, backbone, _ = saved
    good = make_exchange(1)
    prompt = replace(good, messages=good.messages[:1])
    bad = replace(good, messages=(Message("assistant", "a"), Message("assistant", "b")))
    step = ScoreStep("score", path, backbone=backbone)
    result = Pipeline([step], tmp_path / "run").run([prompt, bad])
    [row] = result.rows()
    assert row.meta["scores"]["max_answer"] is None
    assert (
        row.meta["scores"]["mixed_max"] == row.meta["scores"]["probe_max"] == row.meta["scores"]["max_prompt"]
    )
    assert row.meta["scores"]["flagged"] is False
    [dropped] = result.rejected()
    assert dropped.meta["rejected"]["reason"] == "unreadable"


def test_the_guard_is_known_by_its_hash_and_loaded_anew_elsewhere(saved, tmp_path) -> None:
    path, backbone, guard = saved
    sha256 = guard.sha256
    moved = path.rename(tmp_path / "moved")
    step = ScoreStep("score", moved, backbone=backbone)
    assert step.config()["guard"] == sha256
    other = make_guard(tiny_backbone(), seed=1).save(tmp_path / "other")
    assert ScoreStep("score", other.path).config() != step.config()
    list(step.run([], StepContext("score", print)))
    assert step._guard is not None
    assert step.__getstate__()["_guard"] is None


def test_a_path_without_a_guard_is_refused_at_once(tmp_path) -> None:
    with pytest.raises(GuardError):
        ScoreStep("score", tmp_path)
