"""`lockgate recalibrate` and `lockgate log budget`: the guard's own log as evidence."""

import json

import pytest
from logs import decision, opened_log
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cli import main
from lockgate.decisions import Content, Scores, Turn
from lockgate.exchanges import write_exchanges
from lockgate.guards import Guard

N = 70
BUDGET = 0.05


@pytest.fixture(scope="module")
def folder(saved_backbone, tmp_path_factory):
    """A guard, its traffic as text, and its decision log of the same traffic in shadow mode."""
    folder = tmp_path_factory.mktemp("recalibrate")
    backbone = Backbone.load(saved_backbone("llama"))
    rows = [make_exchange(i, 1 + i % 9) for i in range(N)]
    make_guard(backbone, flag=0.0).save(folder / "guard")
    write_exchanges(folder / "traffic.jsonl", rows)
    guard = Guard.load(folder / "guard", backbone=backbone)
    log = opened_log(folder / "decisions.db", content="full")
    for number, score in enumerate(guard.score_many(rows)):
        made = decision(
            number,
            mode="shadow",
            guard=guard.sha256,
            measure=guard.record.measure,
            decision="halt" if score.flagged else "pass",
            stage=1,
            scores=Scores(score.max_prompt, score.max_answer, guard.thresholds.flag),
        )
        turns = [Turn(message.role, message.content) for message in score.exchange.messages]
        log.write(made, Content(tuple(turns)))
    assert log.close().unwritten == 0
    return folder


@pytest.fixture
def run(capsys, monkeypatch, folder, saved_backbone):
    monkeypatch.chdir(folder)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def backbone_folder(saved_backbone):
    return saved_backbone("llama")


def calibration_of(out):
    found = json.loads(out)["calibration"]
    names = ("threshold", "n", "k", "budget", "duplicates_dropped", "exclusions")
    return {name: found[name] for name in names if name in found}


def test_the_threshold_is_the_one_that_scoring_the_texts_gives(run, backbone_folder, tmp_path):
    common = ("--backbone", backbone_folder, "--budget", BUDGET, "--json")
    code, out, err = run(
        "recalibrate", "guard", "--log", "decisions.db", *common, "--output", tmp_path / "new"
    )
    assert code == 0, err
    code, scored, err = run("calibrate", "guard", "--input", "traffic.jsonl", *common)
    assert code == 0, err
    found, expected = calibration_of(out), calibration_of(scored)
    assert found.pop("threshold") == pytest.approx(expected.pop("threshold"), abs=1e-3)
    assert found == expected
    new = Guard.load(tmp_path / "new", backbone=backbone_folder)
    assert new.thresholds.flag == calibration_of(out)["threshold"]


def test_what_reviewers_call_harmful_does_not_count(run, folder, backbone_folder, tmp_path):
    common = ("--backbone", backbone_folder, "--budget", BUDGET, "--json")
    _, out, _ = run("recalibrate", "guard", "--log", "decisions.db", *common)
    before = json.loads(out)
    numbers = [int(row["id"].removeprefix("chatcmpl-").removesuffix("/0")) for row in before["highest"][:2]]
    reviews = tmp_path / "reviews.jsonl"
    ids = [make_exchange(i, 1 + i % 9).id for i in numbers]
    reviews.write_text("".join(json.dumps({"id": name, "verdict": "harmful"}) + "\n" for name in ids))
    code, out, err = run("recalibrate", "guard", "--log", "decisions.db", *common, "--reviews", reviews)
    assert code == 0, err
    after = json.loads(out)
    assert after["reviewed_as_harmful"] == 2
    assert after["calibration"]["n"] == before["calibration"]["n"] - 2
    assert after["calibration"]["threshold"] < before["calibration"]["threshold"]


def test_the_rate_of_refusals_is_tested_and_an_alarm_is_an_exit_code(run, folder):
    code, out, err = run("log", "budget", "decisions.db", "--guard", "guard", "--budget", 0.001, "--json")
    found = json.loads(out)
    assert code == 1, err
    assert found["counted"] == "distinct prompts"
    assert found["flags"] > 5
    assert found["left_budget_at"] <= found["n"]
    assert found["evidence"] > found["limit"]
    code, out, _ = run("log", "budget", "decisions.db", "--guard", "guard", "--budget", 0.999)
    assert code == 0
    assert "has not left the budget" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("log", "budget", "decisions.db", "--guard", "guard"), "--budget: the guard has none"),
        (("log", "budget", "none.db", "--guard", "guard"), "no such file"),
        (("log", "budget", "decisions.db", "--guard", "guard", "--since", "noon"), "expected a time"),
        (("recalibrate", "guard", "--log", "traffic.jsonl"), "lockgate log export"),
        (("recalibrate", "guard", "--log", "decisions.db", "--reviews", "none.jsonl"), "no such file"),
        (("log", "budget", "decisions.db", "--guard", "guard", "--key", "none.key"), "not readable"),
    ],
)
def test_bad_input_is_one_line(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
