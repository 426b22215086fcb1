"""Calibrating a memory: its limit keeps the budget on benign conversations, and is bound to its guard."""

import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import save_tiny
from parts import WORDS, make_guard

from lockgate.calibration import choose_threshold
from lockgate.cascade.memory import Memory
from lockgate.cli import main
from lockgate.errors import CalibrationError, ConfigError
from lockgate.exchanges import Exchange, Message, PromptPrints, write_exchanges
from lockgate.guards import Guard
from lockgate.guards.memory import read_memory
from lockgate.traffic import MemoryPlan, _memory, calibrate_memory, choose_memory, exchanges_of


def conversation(number: int, turns: int) -> Exchange:
    said = [WORDS[(number * k + k) % len(WORDS)] for k in range(1, turns + 1)]
    return Exchange(
        tuple(
            message
            for turn, word in enumerate(said)
            for message in (
                Message("user", f"{number} {turn} what of the {word}"),
                Message("assistant", f"the {word} is there, and {' '.join(said[:turn])}"),
            )
        )
    )


@pytest.fixture
def guard(tmp_path) -> Guard:
    made = make_guard(flag=50.0)
    scores = [float(number) for number in range(400)]
    found = choose_threshold(scores, [str(score) for score in scores], 0.05, 1e-3)
    return made.with_calibration(found).save(tmp_path / "guard")


def test_a_conversation_has_an_exchange_for_each_answer() -> None:
    roles = ["system", "assistant", "user", "assistant", "user", "assistant", "user"]
    turns = [Message(role, f"words {number}") for number, role in enumerate(roles)]
    assert [len(exchange.messages) for exchange in exchanges_of(Exchange(tuple(turns)))] == [4, 6]


COURSES = st.lists(st.lists(st.floats(-10, 1), min_size=1, max_size=6), min_size=120, max_size=200)


@given(courses=COURSES, evidence=st.floats(0.01, 0.3))
@settings(max_examples=30)
def test_no_more_conversations_flag_than_the_budget_allows(courses, evidence) -> None:
    guard = make_guard()
    plan = MemoryPlan(budget=0.05, evidence=evidence)
    groups = [str(number) for number in range(len(courses))]
    try:
        record = choose_memory(guard.record, courses, groups, plan)
    except CalibrationError:
        assume(False)
    memory, flagged = record.memory, 0
    for course in courses:
        past, found = 0.0, False
        for margin in [one for one in course if one <= 0]:
            found = found or margin > -memory.lowered(past) + 1e-12
            past = memory.add(past, margin)
        flagged += found
    assert flagged <= record.calibration["k"]
    assert record.calibration["bound"] <= plan.budget
    assert memory.limit > memory.allowance


def test_an_allowance_too_small_to_count_with_is_refused() -> None:
    courses = [[-5e-324]] * 120
    with pytest.raises(CalibrationError, match="too many exchanges lie at the threshold"):
        choose_memory(make_guard().record, courses, [str(n) for n in range(120)], MemoryPlan(budget=0.05))


def test_the_command_scores_turns_as_exchanges_and_binds_the_file(guard, tmp_path, capsys) -> None:
    rows = [conversation(number, 1 + number % 4) for number in range(130)]
    write_exchanges(tmp_path / "talk.jsonl", rows)
    output = tmp_path / "memory.json"
    arguments = [str(tmp_path / "guard"), "--input", str(tmp_path / "talk.jsonl"), "--output", str(output)]
    backbone = ["--backbone", str(save_tiny("llama", tmp_path / "backbone"))]
    with pytest.raises(SystemExit) as ended:
        main(["memory", *arguments, *backbone, "--budget", "0.05", "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exchanges"] == sum(1 + number % 4 for number in range(130))
    assert told["calibration"]["n"] == 130
    assert not list(tmp_path.glob("*.state"))
    found = read_memory(output, guard.record)
    cut = guard.thresholds.flag - guard.thresholds.tolerance
    margins = [[score.mixed_max - cut for score in guard.score_many(exchanges_of(row))] for row in rows]
    draft = Memory(found.allowance, found.forget, found.limit)
    sums = sorted((draft.highest(course) for course in margins), reverse=True)
    assert found.limit == pytest.approx(max(sums[told["calibration"]["k"]], found.allowance), rel=1e-6)

    other = make_guard(seed=1).with_calibration(guard.calibration)
    with pytest.raises(ConfigError, match="another guard or threshold"):
        read_memory(output, other.record)
    output.write_text("{}")
    with pytest.raises(ConfigError, match="is no memory file"):
        read_memory(output, guard.record)


def test_what_is_wrong_is_said_before_anything_is_scored(guard, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_memory, "score_file", lambda *given, **options: pytest.fail("it was scored"))
    rows = [conversation(number, 2) for number in range(130)]
    write_exchanges(tmp_path / "few.jsonl", rows[:5])
    with pytest.raises(CalibrationError, match="distinct"):
        calibrate_memory(guard, [tmp_path / "few.jsonl"], tmp_path / "m.json", MemoryPlan(budget=0.05))
    write_exchanges(tmp_path / "talk.jsonl", rows)
    known = guard.with_training_prompts(PromptPrints.of_texts([rows[7].messages[0].content]))
    with pytest.raises(CalibrationError, match=f"trained on .*{rows[7].id}"):
        calibrate_memory(known, [tmp_path / "talk.jsonl"], tmp_path / "m.json", MemoryPlan(budget=0.05))
    assert not list(tmp_path.glob("m.json*"))


def test_what_cannot_be_calibrated_says_why(guard, tmp_path) -> None:
    with pytest.raises(CalibrationError, match="is not calibrated"):
        calibrate_memory(make_guard(), [tmp_path / "talk.jsonl"], tmp_path / "m.json")
    with pytest.raises(CalibrationError, match="no exchange"):
        choose_memory(
            guard.record, [[-math.inf]] * 200, [str(n) for n in range(200)], MemoryPlan(budget=0.05)
        )
    with pytest.raises(ConfigError, match="evidence"):
        MemoryPlan(evidence=0.0)
