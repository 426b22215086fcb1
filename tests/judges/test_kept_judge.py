"""Verdicts that are kept: nothing is judged twice, whatever ends a run, and no text is on disk."""

import json

import pytest
from text_judges import Counting, talk

from lockgate.errors import JudgeError
from lockgate.judges import JudgeCost, KeptJudge, Price

TALKS = [talk("why", f"the secret boat {number}" + "!" * (number % 3)) for number in range(200)]


def test_nothing_is_judged_twice(tmp_path):
    inner = Counting()
    judge = KeptJudge(inner, tmp_path)
    first = judge.judge([*TALKS[:50], *TALKS[:10]])
    assert len(inner.asked) == judge.asked == 50
    again = KeptJudge(Counting(), tmp_path)
    assert again.judge([*TALKS[:50], *TALKS[:10]]) == first
    assert again.asked == 0
    # A kept verdict costs what it cost: figures don't depend on where a run was interrupted.
    assert again.cost == judge.cost == JudgeCost(60, 15.0, sum(r.prompt_tokens for r in first), 60)
    assert "secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_a_failure_stops_and_what_was_judged_is_kept(tmp_path):
    with pytest.raises(JudgeError, match=r"gave no verdict on 28 of 64 conversations: HTTP 503.*is kept"):
        KeptJudge(Counting(fail_at=100), tmp_path).judge(TALKS)
    inner = Counting()
    judge = KeptJudge(inner, tmp_path)
    assert [reading.logit for reading in judge.judge(TALKS)] == [number % 3 - 0.5 for number in range(200)]
    assert len(inner.asked) == 100


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_a_line_that_was_cut_off_is_asked_again(tmp_path, cut):
    KeptJudge(Counting(), tmp_path).judge(TALKS[:3])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    inner = Counting()
    judge = KeptJudge(inner, tmp_path)
    judge.judge(TALKS[:3])
    assert len(inner.asked) in (0, 1, 2)
    assert KeptJudge(Counting(), tmp_path).judge(TALKS[:3]) == judge.judge(TALKS[:3])
    last = KeptJudge(Counting(), tmp_path)
    last.judge(TALKS[:3])
    assert last.asked == 0


def test_lines_that_are_no_verdict_are_left_out(tmp_path):
    judge = KeptJudge(Counting(), tmp_path)
    judge.judge(TALKS[:1])
    (path,) = tmp_path.iterdir()
    key = json.loads(path.read_text())[0]
    bad = [[key, ["NaN", 0, 0, 0]], ["short", [1.0, 0, 0, 0]], [key, [1]], {"a": 1}, 3, None]
    path.write_text("\n".join(json.dumps(row) for row in bad).replace('"NaN"', "NaN"))
    again = KeptJudge(Counting(), tmp_path)
    again.judge(TALKS[:1])
    assert again.asked == 1


def test_another_judge_knows_nothing(tmp_path):
    KeptJudge(Counting(), tmp_path).judge(TALKS[:5])
    other = KeptJudge(Counting(sha256="d1" * 32), tmp_path)
    other.judge(TALKS[:5])
    assert other.asked == 5


def test_costs_add_up_and_have_a_price():
    cost = JudgeCost(2, 1.5, 1000, 10)
    assert cost + cost - cost == cost
    assert cost.money(Price(prompt=2.0, completion=50.0)) == pytest.approx(0.0025)
    assert cost.money(None) is None
