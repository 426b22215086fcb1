"""Calibration as a call from Python. Bad input is refused before the long reading."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from classifying import tiny_classifier
from parts import make_guard

from lockgate.backbones import Backbone
from lockgate.calibration import Exclusion, choose_threshold
from lockgate.cli import main
from lockgate.errors import CalibrationError, ConfigError, GuardError
from lockgate.exchanges import Exchange, Message, PromptPrints, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import (
    CalibrationPlan,
    SecondStagePlan,
    calibrate,
    gather_evidence,
    read_exclusions,
    score_file,
)

WORDS = ("mill", "lock", "boat", "orchard", "lantern", "mirror", "kettle", "ladder")
N = 60


def row(number: int, label: float | None = None, answer: bool = True) -> Exchange:
    """An exchange with a prompt of its own."""
    draw = random.Random(number)
    asked = Message("user", f"{number} " + " ".join(draw.choices(WORDS, k=4)))
    said = Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(3, 9))))
    return Exchange((asked, said) if answer else (asked,), label)


TRAFFIC = [row(i) for i in range(N)]


@pytest.fixture
def guard(tmp_path, saved_backbone) -> Guard:
    """A guard of one stage, on disk."""
    return make_guard(Backbone.load(saved_backbone("llama")), flag_on="both").save(tmp_path / "guard")


@pytest.fixture
def traffic(tmp_path):
    write_exchanges(tmp_path / "traffic.jsonl", [*TRAFFIC, row(999, answer=False)])
    return tmp_path / "traffic.jsonl"


@pytest.fixture
def stages(tmp_path) -> SecondStagePlan:
    tiny_classifier().save(tmp_path / "classifier")
    write_exchanges(tmp_path / "dev.jsonl", [row(1000 + i, float(i % 3 == 0)) for i in range(45)])
    return SecondStagePlan(tmp_path / "classifier", (tmp_path / "dev.jsonl",), escalation=0.4)


@pytest.fixture
def command(tmp_path, saved_backbone, capsys):
    """What `lockgate calibrate` writes, and says in JSON."""

    def command(*words):
        given = ["calibrate", tmp_path / "guard", "--budget", "0.1", "--output", tmp_path / "told", *words]
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in (*given, "--backbone", saved_backbone("llama"), "--json")])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return Guard.load(tmp_path / "told", backbone=saved_backbone("llama")), json.loads(out)

    return command


def test_one_stage_is_what_the_command_writes(guard, traffic, command, tmp_path) -> None:
    made = calibrate(guard, traffic, CalibrationPlan(budget=0.1))
    told, said = command("--input", traffic)
    assert made.record == told.record
    assert made.calibration.to_dict() == said["calibration"]
    flagged = [score.flagged for score in made.score_many(TRAFFIC)]
    assert sum(flagged) == made.calibration.flagged == made.calibration.k > 0
    # The guard that was given is as it was.
    assert guard.calibration is None
    made.save(tmp_path / "made")
    assert (tmp_path / "made" / "guard.yaml").read_bytes() == (tmp_path / "told" / "guard.yaml").read_bytes()


@pytest.mark.slow
def test_two_stages_are_what_the_command_writes(guard, traffic, stages, command, tmp_path) -> None:
    made = calibrate(guard, [traffic], CalibrationPlan(budget=0.1, second_stage=stages))
    told, said = command(
        *("--input", traffic, "--classifier", stages.classifier),
        *("--development", stages.development[0], "--escalation", "0.4"),
    )
    # Saved, since the hashes of a classifier's files are known then.
    assert made.save(tmp_path / "made").record == told.record
    assert made.cascade == told.cascade
    assert made.cascade.weight == said["second_stage"]["weight"]
    loaded = replace(stages, classifier=made.classifier)
    again = calibrate(guard, traffic, CalibrationPlan(budget=0.1, second_stage=loaded))
    assert again.record == made.record


def test_tables_made_before_give_the_same(guard, traffic, command, tmp_path) -> None:
    table = score_file(guard, traffic, tmp_path / "scores.parquet")
    made = calibrate(guard, table, CalibrationPlan(budget=0.1))
    read = calibrate(guard, traffic, CalibrationPlan(budget=0.1))
    assert made.thresholds == read.thresholds
    assert made.record == command("--scores", tmp_path / "scores.parquet")[0].record
    with gather_evidence(None, table, CalibrationPlan(budget=0.1, tolerance=0.25)) as evidence:
        chosen = evidence.choose()
        with pytest.raises(ConfigError, match="no guard was given to calibrate"):
            evidence.apply(chosen)
    answered = ~np.isnan(table.floats("max_answer"))
    scores, groups = table.floats("mixed_max")[answered], table.select(answered).groups
    assert chosen.threshold == choose_threshold(scores, groups, 0.1, 0.25).threshold


def test_evidence_says_what_stands_behind_the_threshold(guard, traffic) -> None:
    listed = (Exclusion(TRAFFIC[4].id, "read: no ordinary question"),)
    plan = CalibrationPlan(budget=0.1, confidence=0.9, exclusions=listed)
    with gather_evidence(guard, traffic, plan) as evidence:
        chosen = evidence.choose()
        assert (len(evidence.scored), len(evidence.table), evidence.unanswered) == (N + 1, N, 1)
        assert (chosen.n, chosen.confidence, chosen.excluded) == (N - 1, 0.9, listed)
        assert {found.budget: found.k for found in evidence.budgets()}[0.05] == 0
        assert evidence.overlap.startswith("not checked, the guard holds no fingerprints")
        assert evidence.stages is None
        assert evidence.tolerance == guard.thresholds.tolerance
    assert evidence.apply(chosen).record.claim[-1] == f"overlap with training: {evidence.overlap}"


def test_what_was_read_is_kept_until_the_block_is_done(guard, traffic, tmp_path, monkeypatch) -> None:
    plan = CalibrationPlan(budget=0.1, scratch=tmp_path / "scratch")

    def fail() -> None:
        with gather_evidence(guard, traffic, plan):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "score_many", None)
        made = calibrate(guard, traffic, plan)
    assert not (tmp_path / "scratch").exists()
    assert made.record == calibrate(guard, traffic, replace(plan, scratch=None)).record


@pytest.mark.parametrize(
    ("changes", "rows", "error", "words"),
    [
        ({"budget": 0.001}, TRAFFIC, CalibrationError, "at least 2995 distinct prompts"),
        ({}, [*TRAFFIC, row(70, 1.0)], CalibrationError, "exchange 61 is labelled harmful"),
        ({}, [row(1, answer=False)], CalibrationError, "traffic: no exchange with an answer"),
        (
            {"exclusions": (Exclusion("nobody", "?"),)},
            TRAFFIC,
            CalibrationError,
            "exclusions: .* the first is nobody",
        ),
        ({}, [*TRAFFIC, row(7001)], CalibrationError, "prompts that the guard was trained on"),
        ({"scratch": "taken"}, TRAFFIC, ConfigError, "holds other files"),
        ({"second_stage": "no-such-folder"}, TRAFFIC, GuardError, "no-such-folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(
    guard, tmp_path, monkeypatch, changes, rows, error, words
) -> None:
    write_exchanges(tmp_path / "rows.jsonl", rows)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    if "second_stage" in changes:
        changes = {"second_stage": SecondStagePlan(tmp_path / changes["second_stage"], weight=0.5)}
    place = tmp_path / changes.get("scratch", "scratch")
    plan = CalibrationPlan(**{"budget": 0.1, **changes, "scratch": place})
    monkeypatch.setattr(Guard, "score_many", None)
    knowing = guard.with_training_prompts(PromptPrints.of([row(7001)]))
    with pytest.raises(error, match=words):
        calibrate(knowing, tmp_path / "rows.jsonl", plan)
    assert place.exists() == ("scratch" in changes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give either development"),
        ({"weight": 1.5}, r"weight is 1.5; expected a number from 0 to 1"),
        ({"weight": 0.5, "stride": 0}, "stride is 0"),
        ({"weight": 0.5, "escalation": 1.0}, "escalation is 1"),
        ({"weight": 0.5, "lost": -1.0}, "lost is -1"),
    ],
)
def test_a_plan_that_cannot_work_is_not_made(tmp_path, fields, words) -> None:
    with pytest.raises(ConfigError, match=words):
        SecondStagePlan(tmp_path, **fields)


def test_what_does_not_go_together_is_refused(guard, traffic, tmp_path) -> None:
    stage = SecondStagePlan(tmp_path, weight=0.5)
    with pytest.raises(ConfigError, match="two stages take theirs"):
        CalibrationPlan(tolerance=0.1, second_stage=stage)
    table = score_file(guard, traffic, tmp_path / "scores.parquet")
    with pytest.raises(ConfigError, match="give exchanges"):
        calibrate(guard, table, CalibrationPlan(second_stage=stage))
    with pytest.raises(ConfigError, match="no guard was given"), gather_evidence(None, traffic):
        pass


def test_harmful_rows_of_a_table_are_refused(guard, tmp_path) -> None:
    write_exchanges(tmp_path / "rows.jsonl", [row(i, float(i == 5)) for i in range(9)])
    table = score_file(guard, tmp_path / "rows.jsonl", tmp_path / "scores.parquet")
    assert isinstance(table, ScoresTable)
    with pytest.raises(CalibrationError, match=f"the first with id {row(5).id}"):
        calibrate(guard, table, CalibrationPlan(budget=0.5))


def test_exclusions_are_read_from_lines(tmp_path) -> None:
    listed = tmp_path / "listed.jsonl"
    listed.write_text('{"id": "a", "reason": "x"}\n\n{"id": "b", "reason": "y"}\n')
    assert read_exclusions(listed) == (Exclusion("a", "x"), Exclusion("b", "y"))
    listed.write_text('{"id": "a", "reason": "x"}\n["b"]\n')
    with pytest.raises(CalibrationError, match=r"listed\.jsonl:2: expected"):
        read_exclusions(listed)
