"""From labelled exchanges to an uncalibrated guard."""

from dataclasses import replace

import numpy as np
import pytest
from models import tiny_backbone
from parts import make_exchange

from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, Message
from lockgate.training import ProbeConfig, train_guard
from lockgate.training._guard import provisional_thresholds

CONFIG = ProbeConfig("probe", (0, 1, 2), epochs=30, batch=16, lr=0.01, weight_decay=0.01)
HARM = "boat boat boat boat boat boat"


def labelled(count: int) -> list[Exchange]:
    """Harmful ones answer with one word over and over."""
    rows = []
    for i in range(count):
        row = make_exchange(i)
        if i % 2:
            row = Exchange(
                (row.messages[0], Message("assistant", HARM)), 1.0, "sleights" if i % 3 else None, "b"
            )
        rows.append(replace(row, label=float(i % 2)))
    return rows


@pytest.fixture(scope="module")
def policy():
    from lockgate.constitution import load_constitution

    return load_constitution("stage-magic").category_ids[0]


def train(rows, work, **options):
    options.setdefault("config", CONFIG)
    return train_guard(rows, backbone=tiny_backbone(), constitution="stage-magic", work=work, **options)


def test_a_guard_learns_and_says_on_what(tmp_path, policy) -> None:
    rows = [replace(row, category=policy if row.category else None) for row in labelled(60)]
    lines: list[str] = []
    guard = train(
        [*rows, make_exchange(99), Exchange((Message("user", "p"),), 1.0)], tmp_path, report=lines.append
    )
    scores = [guard.score(row.messages).max_answer for row in rows]
    harmful, harmless = np.array(scores)[1::2], np.array(scores)[::2]
    assert np.median(harmful) > np.median(harmless) + 1
    assert guard.head.category_ids == (policy,)
    record = guard.record.training
    assert record is not None
    assert record.exchanges == {"b": {"harmful": 30, "harmless": 0}, "made": {"harmful": 0, "harmless": 30}}
    assert guard.calibration is None
    assert guard.thresholds.tolerance >= 0
    assert any(line.startswith("activations: ") for line in lines)
    again = train(rows, tmp_path)
    assert (again.head.weights == guard.head.weights).all()
    assert again.thresholds == guard.thresholds


def test_a_run_that_was_interrupted_gives_the_same_guard(tmp_path) -> None:
    rows = labelled(40)
    whole = train(rows, tmp_path / "whole")

    def stop(line: str) -> None:
        if line.startswith("epoch 7/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rows, tmp_path / "w", report=stop)
    again = train(rows, tmp_path / "w")
    assert (again.head.weights == whole.head.weights).all()
    assert again.record.training == whole.record.training


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no exchange has both a label and an answer"),
        ([make_exchange(1)], "no exchange has both"),
        ([Exchange((Message("user", "x"),), 1.0)], "prompts alone cannot train"),
        ([replace(make_exchange(i), label=1.0) for i in range(9)], "both labels are needed"),
        ([replace(make_exchange(i), label=0.0) for i in range(9)], "both labels are needed"),
    ],
)
def test_rows_that_cannot_train(tmp_path, rows, message) -> None:
    with pytest.raises(TrainingError, match=message):
        train(rows, tmp_path)


def test_the_provisional_threshold_stands_above_held_out_harmless_rows(tmp_path) -> None:
    guard = train(labelled(40), tmp_path)
    held = [replace(make_exchange(i), label=0.0) for i in range(100, 110)]
    thresholds = provisional_thresholds(guard.backbone, guard.head, [*held, replace(held[0], label=1.0)])
    worst = max(guard.score(row.messages).max_score for row in held)
    assert not thresholds.crossed(worst)
    assert thresholds.crossed(worst + 3 * thresholds.tolerance)
    assert provisional_thresholds(guard.backbone, guard.head, []).flag == 0.0
