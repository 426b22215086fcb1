"""A replay of a decision log compares its scores with other thresholds, and only scores of the same kind."""

import json
import math
from pathlib import Path

import pytest
from classifying import tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import write_lines
from models import tiny_backbone
from parts import make_guard

from lockgate.calibration import choose_threshold
from lockgate.cascade import Cascade
from lockgate.decisions import Decision, Scores
from lockgate.errors import ConfigError, ExchangeError
from lockgate.guards import Guard
from lockgate.traffic import Counts, ReplayPlan, kind_of, replay_decisions, write_changes

NUMBERS = st.none() | st.integers(-4, 4).map(lambda n: n / 2)


def line(number: int, by: Guard, scores: Scores, decision: str = "pass", **fields) -> Decision:
    known = {
        "guard": by.sha256, "measure": by.record.measure, "enforced": False, "category": None,
        "stage": 1, "mode": "shadow", **fields,
    }  # fmt: skip
    return Decision(
        id=f"chatcmpl-{number}", choice=0, time="", decision=decision, finish_reason="stop",
        token_index=None, scores=scores, prompt_tokens=1, completion_tokens=1, queue_ms=0.0,
        first_token_ms=None, total_ms=0.0, **known,
    )  # fmt: skip


@pytest.fixture(scope="module")
def guards(tmp_path_factory) -> dict[str, Guard]:
    folder = tmp_path_factory.mktemp("guards")
    made = {name: make_guard(flag=1.0, flag_on=name) for name in ("both", "answer")}
    cascade = Cascade(0.0, 1.0, 0.5, tolerance=1e-3)
    made["two"] = make_guard(tiny_backbone("llama")).with_cascade(tiny_classifier(), cascade)
    return {name: guard.save(folder / name) for name, guard in made.items()}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["both", "answer", "two"]),
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12),
    st.integers(-5, 5).map(lambda n: n / 2),
)
def test_counts_are_what_the_server_would_decide(guards, tmp_path_factory, name, rows, threshold) -> None:
    guard = guards[name]
    tolerance = guard.record.decides.tolerance

    def flagged(row, limit) -> bool:
        prompt, answer, mixed = row
        compared = {"both": (prompt, answer), "answer": (answer,), "two": (mixed,)}[name]
        return any(score is not None and score > limit - tolerance for score in compared)

    before = [flagged(row, 1.0) for row in rows]
    lines = [
        line(i, guard, Scores(prompt, answer, 1.0, mixed), "halt" if before[i] else "pass")
        for i, (prompt, answer, mixed) in enumerate(rows)
    ]
    path = write_lines(tmp_path_factory.mktemp("log") / "log.jsonl", lines)
    found = replay_decisions(guard.path, path, ReplayPlan(thresholds=(threshold,)))
    after = [flagged(row, threshold) for row in rows]
    pairs = list(zip(before, after, strict=True))
    order = ((False, True), (True, False), (True, True), (False, False))
    assert found.counts == Counts(*(pairs.count(pair) for pair in order))
    assert [change.row for change in found.changes] == [i for i, (a, b) in enumerate(pairs, 1) if a != b]
    own = next(row for row in found.thresholds if row.threshold == 1.0)
    assert own.counts == Counts(0, 0, sum(before), len(rows) - sum(before))


def test_a_failed_reading_flags_at_any_threshold(guards, tmp_path) -> None:
    guard = guards["both"]
    nothing = Scores(None, None, 1.0)
    lines = [line(0, guard, nothing, "halt"), line(1, guard, nothing), line(2, guard, nothing, "cancelled")]
    path = write_lines(tmp_path / "log.jsonl", lines)
    for threshold in (-1e9, 1e9):
        found = replay_decisions(guard.path, path, ReplayPlan(thresholds=(threshold,)))
        assert found.counts == Counts(0, 0, 1, 2)


def test_what_is_not_compared_is_counted(guards, tmp_path) -> None:
    guard, other = guards["both"], guards["two"]
    scores = Scores(0.0, 2.0, 1.0)
    lines = [
        line(0, guard, scores, "halt", enforced=True, category="spoilers"),
        line(1, guard, scores, "halt"),
        line(1, guard, scores, "halt"),
        line(2, guard, scores, "error", reason="x"),
        line(3, guard, scores, guard=None, measure=None),
        line(4, other, scores),
    ]
    path = write_lines(tmp_path / "log.jsonl", lines)
    path.write_text(path.read_text() + '{"id": "c", "dec\n')
    found = replay_decisions(guard.path, path, ReplayPlan(thresholds=(3.0,)))
    assert found.counts == Counts(0, 2, 0, 0)
    assert found.by_category == {"spoilers": Counts(0, 1, 0, 0), "unknown": Counts(0, 1, 0, 0)}
    assert (found.cut_short, found.unenforced) == (1, 1)
    assert found.left_out == {
        "repeated lines of the log": 1,
        "exchanges that could not be checked when they were recorded": 1,
        "lines without a guard": 1,
        "malformed lines of the log": 1,
        "lines with the scores of another guard": 1,
    }
    assert write_changes(found, tmp_path / "rows.jsonl") == 2
    assert (tmp_path / "rows.jsonl").stat().st_mode & 0o777 == 0o600
    read = [json.loads(text) for text in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in read] == ["chatcmpl-0", "chatcmpl-1"]
    assert read[0]["replay"] == found.to_dict()["changes"][0]


def recalibrated(guard: Guard, folder: Path, threshold: float) -> Guard:
    scores = [threshold - number for number in range(60)]
    found = choose_threshold(scores, [str(i) for i in range(60)], 0.05, 1e-3)
    return guard.with_calibration(found).save(folder)


@pytest.mark.parametrize("name", ["both", "two"])
def test_a_new_threshold_of_the_same_scores_may_be_compared(guards, tmp_path, name) -> None:
    old = guards[name]
    new = recalibrated(old, tmp_path / "new", 5.0)
    assert new.sha256 != old.sha256
    assert new.record.measure == old.record.measure
    path = write_lines(tmp_path / "log.jsonl", [line(0, old, Scores(None, 2.0, 1.0, 2.0), "halt")])
    found = replay_decisions(new.path, path)
    assert found.threshold == new.record.decides.flag
    assert found.counts == Counts(0, 1, 0, 0)
    # A log of an older version names the bundle only.
    write_lines(path, [line(0, old, Scores(None, 2.0, 1.0, 2.0), "halt", measure=None)])
    with pytest.raises(ExchangeError, match="no line has scores of guard tiny"):
        replay_decisions(new.path, path)
    assert replay_decisions(new.path, path, recorded_by=old.path).counts == found.counts
    with pytest.raises(ExchangeError, match=r"recorded_by: .* with their text"):
        replay_decisions(new.path, path, recorded_by=guards["two" if name == "both" else "both"].path)


def test_scores_of_another_kind_need_the_text(guards, tmp_path) -> None:
    path = write_lines(tmp_path / "log.jsonl", [line(0, guards["two"], Scores(None, 2.0, 1.0))])
    with pytest.raises(ExchangeError, match=r"1 lines were written by another guard.*with their text"):
        replay_decisions(guards["both"].path, path)
    with pytest.raises(ConfigError, match="decisions: leave them out"):
        replay_decisions(guards["two"].path, path, ReplayPlan(decisions=(path,)))


def test_what_gives_the_scores_is_in_the_measure(guards, tmp_path) -> None:
    two = guards["two"]
    measures = {two.record.measure, guards["both"].record.measure}
    for changed in (Cascade(0.5, 1.0, 0.5), Cascade(0.0, 1.0, 0.6), Cascade(0.0, 1.0, 0.5, stride=4)):
        measures.add(two.with_cascade(tiny_classifier(), changed).record.measure)
    assert len(measures) == 5
    moved = two.with_cascade(tiny_classifier(), Cascade(0.0, math.pi, 0.5, tolerance=0.5))
    assert moved.record.measure == two.record.measure
    assert make_guard(seed=1).save(tmp_path / "g").record.measure not in measures


def test_files_are_told_apart_by_their_content(guards, tmp_path) -> None:
    decisions = write_lines(tmp_path / "d.jsonl", [line(0, guards["both"], Scores(None, 2.0, 1.0))])
    traffic = tmp_path / "t.jsonl"
    traffic.write_text('\n{"broken\n{"messages": []}\n')
    assert (kind_of([decisions]), kind_of([traffic])) == ("decisions", "traffic")
    with pytest.raises(ExchangeError, match="give the decisions to --decisions"):
        kind_of([traffic, decisions])
    for content in ("", '{"a": 1}\n' * 50):
        traffic.write_text(content)
        with pytest.raises(ExchangeError, match="holds neither exchanges"):
            kind_of([traffic])
