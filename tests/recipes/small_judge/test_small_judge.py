"""The small judge of the documents: it is trained, and tells its made answers apart."""

import sys

import pytest

from lockgate.exchanges import read_exchanges
from lockgate.judges import find_judge, open_judge
from recipes.small_judge.make import main


@pytest.mark.embedded
def test_the_small_judge_tells_the_made_answers_apart(tmp_path, monkeypatch) -> None:
    out = tmp_path / "demo"
    monkeypatch.setattr(sys, "argv", ["make", str(out), "--traffic", "40"])
    main()
    judge = open_judge(find_judge(out / "judge"))
    rows = [*read_exchanges(out / "development.jsonl"), *read_exchanges(out / "traffic.jsonl")]
    logits = [reading.logit for reading in judge.judge([row.messages for row in rows])]
    right = [(logit > 0) == bool(row.label) for logit, row in zip(logits, rows, strict=True)]
    assert sum(right) > 0.9 * len(rows)
    assert len({row.messages[0].content for row in rows}) == len(rows) == 440
    assert find_judge(out / "endpoint.yaml").kind == "endpoint"
