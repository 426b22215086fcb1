"""`lockgate calibrate --classifier`: a guard of one stage and a trained classifier become a guard of two."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from classifying import random_classifier, tiny_classifier
from models import random_head, tiny_backbone
from scores import make_scores

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.cli._doctor import _describe
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message, PromptPrints, write_exchanges
from lockgate.guards import Guard, read_bundle

WORDS = ("mill", "lock", "boat", "orchard", "lantern", "mirror", "kettle", "ladder")
N = 60


def row(number: int, label: float | None = None, answer: bool = True) -> Exchange:
    """An exchange with a prompt of its own."""
    draw = random.Random(number)
    asked = Message("user", f"{number} " + " ".join(draw.choices(WORDS, k=4)))
    said = Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(3, 9))))
    return Exchange((asked, said) if answer else (asked,), label)


def write_guard(path, head):
    """A guard of one stage."""
    backbone = tiny_backbone()
    Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=head,
        thresholds=Thresholds(0.5, flag_on="both"),
    ).save(path)


@pytest.fixture
def parts(tmp_path):
    """Folders and files that the command reads."""
    write_guard(tmp_path / "guard", random_head(tiny_backbone()))
    tiny_classifier().save(tmp_path / "classifier")
    write_exchanges(tmp_path / "traffic.jsonl", [row(i) for i in range(N)] + [row(999, answer=False)])
    write_exchanges(tmp_path / "dev.jsonl", [row(1000 + i, float(i % 3 == 0)) for i in range(45)])
    return tmp_path


@pytest.fixture
def run(capsys, saved_backbone, parts):
    def run(*more, traffic="traffic.jsonl", output="two"):
        words = ["calibrate", parts / "guard", "--input", parts / traffic, "--budget", "0.1"]
        words += ["--classifier", parts / "classifier", "--output", parts / output, *more]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*words, "--backbone", saved_backbone("llama"))])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_written_guard_does_on_its_traffic_what_was_calibrated(run, parts, saved_backbone):
    write_exchanges(parts / "train.jsonl", [row(5000 + i, float(i % 2)) for i in range(8)])
    code, out, err = run(
        *("--development", parts / "dev.jsonl", "--escalation", "0.4", "--lost", "0"),
        *("--training", parts / "train.jsonl", "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    stage, calibration = found["second_stage"], found["calibration"]
    assert (calibration["n"], found["without_answer"]) == (N, 1)
    assert 0 < stage["escalated"] <= 0.4
    assert max(share["tpr"] for share in stage["weights"]) == next(
        share["tpr"] for share in stage["weights"] if share["weight"] == stage["weight"]
    )
    guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
    again = list(guard.score_many([row(i) for i in range(N)]))
    ranked = sorted((score.mixed_max, score.exchange.id) for score in again)[::-1]
    best = [(found["id"], found["score"]) for found in found["highest"]]
    assert [name for name, _ in best] == [name for _, name in ranked[: len(best)]]
    np.testing.assert_allclose([own for _, own in best], [own for own, _ in ranked[: len(best)]], atol=1e-4)
    assert sum(score.flagged for score in again) == calibration["flagged"] <= calibration["k"]
    assert np.mean([score.stage == 2 for score in again]) == stage["escalated"]
    assert len(guard.training_prompts) == 8
    assert not (parts / "two.state").exists()
    card = (parts / "two" / "README.md").read_text()
    assert f"stage 2 is asked about {stage['escalated']:.2%} of this traffic" in card


def test_text_says_how_the_stages_were_put_together(run, parts):
    code, out, err = run("--development", parts / "dev.jsonl", "--escalation", "0.4")
    assert code == 0, err
    assert "probe's share\tcaught at 1% of the harmless ones" in out
    assert "budget\tflags allowed" in out
    assert "guard written to" in out
    code, out, err = run("--weight", "0.25", "--escalation", "0.4", output="three")
    assert code == 0, err
    assert "0.25 probe and 0.75 classifier" in out
    assert "caught" not in out
    assert read_bundle(parts / "three").record.cascade.weight == 0.25


@pytest.mark.parametrize("drift", ["auto", "1.5"])
def test_a_drift_is_chosen_or_taken_and_the_shares_by_length_are_shown(run, parts, saved_backbone, drift):
    more = ("--weight", "0.5", "--escalation", "0.4", "--drift", drift)
    code, out, err = run(*more, "--json")
    assert code == 0, err
    stage = json.loads(out)["second_stage"]
    record = read_bundle(parts / "two").record
    assert stage["drift"] == record.cascade.drift
    assert drift == "auto" or stage["drift"] == 1.5
    guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
    scores = list(guard.score_many([row(i) for i in range(N)]))
    assert np.mean([score.stage == 2 for score in scores]) == stage["escalated"]
    ends = [8 * -(-score.blocks[-1].end // 8) for score in scores]
    low = -1
    for found in stage["escalated_by_length"]:
        own = [
            score.stage == 2 for score, end in zip(scores, ends, strict=True) if low < end <= found["tokens"]
        ]
        assert (len(own), pytest.approx(np.mean(own))) == (found["n"], found["share"])
        low = found["tokens"]
    assert low == max(ends)
    code, out, err = run(*more, output="again")
    assert code == 0, err
    assert "answer tokens up to\texchanges\tasked about" in out
    assert ("as the answer doubles" in out) == (stage["drift"] > 0)
    assert ("Length:" in (parts / "again" / "README.md").read_text()) == (stage["drift"] > 0)
    assert (f"rise by {stage['drift']:.4f} logits" in _describe(record)) == (stage["drift"] > 0)


def test_no_exchange_more_flags_in_serving_than_was_allowed(run, parts, saved_backbone):
    for number, weight in enumerate(("0", "0.3", "0.5", "0.8", "1")):
        code, out, err = run("--weight", weight, "--escalation", "0.5", "--json", output=f"two{number}")
        assert code == 0, err
        guard = Guard.load(parts / f"two{number}", backbone=saved_backbone("llama"))
        # Each alone, and so in other company than in the file.
        flagged = sum(guard.score(row(i).messages).flagged for i in range(N))
        assert flagged <= json.loads(out)["calibration"]["k"]


def test_a_refused_calibration_keeps_what_was_read(run, parts, monkeypatch):
    code, _, err = run("--development", parts / "dev.jsonl", "--escalation", "0.001")
    assert code == 2
    assert "the second stage decides nothing" in err
    assert not (parts / "two").exists()
    assert (parts / "two.state").is_dir()
    monkeypatch.setattr(Guard, "score_many", None)
    code, _, err = run("--weight", "0.5", "--escalation", "0.4")
    assert code == 0, err
    assert not (parts / "two.state").exists()


def test_a_first_stage_below_zero_is_no_fault(run, parts):
    """All of the traffic below 0, and fewer escalated than a lenient budget could flag."""
    loud = random_head(tiny_backbone())
    write_guard(parts / "guard", replace(loud, bias=loud.bias - 200.0))
    code, out, err = run("--weight", "0.5", "--escalation", "0.12", "--json")
    assert code == 0, err
    assert len(json.loads(out, parse_constant=pytest.fail)["budgets"]) > 1
    code, out, err = run("--weight", "0.5", "--escalation", "0.12", output="three")
    assert code == 0, err
    assert "nan" not in out
    assert "inf" not in out


@pytest.mark.parametrize("read", ["--input", "--scores", "--classifier"])
def test_a_folder_of_the_users_own_outlives_a_calibration(run, parts, saved_backbone, capsys, read):
    mine = parts / "two.state" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    if read == "--classifier":
        code, _, err = run("--weight", "0.5", "--escalation", "0.4")
    else:
        make_scores(100, harmful=0.0).write(parts / "scores.parquet")
        traffic = parts / ("traffic.jsonl" if read == "--input" else "scores.parquet")
        words = ["calibrate", parts / "guard", read, traffic, "--budget", "0.1", "--output", parts / "two"]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*words, "--backbone", saved_backbone("llama"))])
        code, err = ended.value.code, capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert code == (0 if read == "--scores" else 2), err
    assert (parts / "two").exists() == (read == "--scores")
    assert read == "--scores" or "two.state: holds other files" in err


def test_traffic_that_the_classifier_learned_from_is_refused(run, parts):
    classifier = random_classifier(tiny_backbone())
    classifier.training_prompts = PromptPrints.of([row(3), row(7000)])
    classifier.save(parts / "classifier")
    code, _, err = run("--weight", "0.5")
    assert code == 2
    assert f"1 of {N} calibration exchanges have prompts that the guard was trained on (1 equal" in err
    assert not (parts / "two.state").exists()
    write_exchanges(parts / "other.jsonl", [row(10_000 + i) for i in range(N)])
    code, out, err = run("--weight", "0.5", "--escalation", "0.4", traffic="other.jsonl")
    assert code == 0, err
    assert "none of 2 training prompts is in this traffic" in out
    assert "the first stage does not say what it was trained on" in out
    assert read_bundle(parts / "two").record.training_prompts.count == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "give either --development"),
        (("--weight", "0.5", "--development", "dev.jsonl"), "give either --development"),
        (("--weight", "1.5"), "from 0 to 1"),
        (("--weight", "0.5", "--escalation", "1"), "from 0.0001 to 0.9999"),
        (("--weight", "0.5", "--tolerance", "0.1"), "take their tolerance from the spread"),
        (("--weight", "0.5", "--save-scores", "s.parquet"), "run `lockgate score` with it instead"),
        (("--weight", "0.5", "--lost", "0.1"), "needs development exchanges"),
        (("--weight", "0.5", "--stride", "0"), "from 1 to 1024"),
        (("--weight", "0.5", "--drift", "-1"), "--drift is -1; expected a number from 0 to 1000"),
        (("--weight", "0.5", "--drift", "nan"), "--drift is nan"),
        (("--weight", "0.5", "--drift", "much"), "--drift: expected a number of logits, or auto"),
        (("--weight", "0.5", "--budget", "0.001"), "2995 distinct prompts"),
        (("--weight", "0.5", "--exclude", "listed.jsonl"), "the first is nobody"),
        (("--weight", "0.5", "--output", "taken"), "holds other files"),
        (("--development", "empty.jsonl"), "no exchange in the files"),
        (("--development", "none.jsonl"), "none.jsonl: no such file"),
        (("--development", "one_label.jsonl"), "all exchanges have one label"),
        (("--development", "unlabelled.jsonl"), "a label and an answer"),
        (("--development", "shared.jsonl"), "1 exchanges have a prompt of the traffic"),
        (("--development", "dev.jsonl", "--training", "dev.jsonl"), "trained on"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(run, parts, more, words):
    write_exchanges(parts / "one_label.jsonl", [row(2000 + i, 1.0) for i in range(4)])
    write_exchanges(parts / "unlabelled.jsonl", [row(2000 + i) for i in range(4)])
    write_exchanges(parts / "empty.jsonl", [])
    (parts / "listed.jsonl").write_text('{"id": "nobody", "reason": "a test"}\n')
    (parts / "taken").mkdir()
    (parts / "taken" / "letter.txt").write_text("mine")
    write_exchanges(parts / "shared.jsonl", [row(2000, 1.0), row(3, 0.0)])
    code, _, err = run(*(parts / part if part.endswith((".jsonl", "taken")) else part for part in more))
    assert code == 2
    assert words in err
    assert not (parts / "two.state").exists()
    assert not (parts / "taken.state").exists()


def test_options_of_a_second_stage_want_its_classifier(capsys, parts):
    for option, value in (("--development", "dev.jsonl"), ("--escalation", "0.1"), ("--weight", "0.5")):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", str(parts / "guard"), "--input", str(parts / "traffic.jsonl"), option, value])
        assert ended.value.code == 2
        assert f"{option} belongs to a second stage" in capsys.readouterr().err


def test_tables_made_before_hold_no_verdicts(capsys, parts):
    words = [
        "calibrate",
        "g",
        "--scores",
        "s.parquet",
        "--classifier",
        "c",
        "--output",
        "o",
        "--weight",
        "0.5",
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "--scores does not go with --classifier" in capsys.readouterr().err


@pytest.mark.parametrize(("fields", "words"), [({"reads": "prompt"}, "exchange"), (None, "backbone")])
def test_a_classifier_that_does_not_fit_is_refused(run, parts, fields, words):
    other = random_classifier(tiny_backbone(), **fields) if fields else tiny_classifier("qwen2")
    other.save(parts / "other")
    code, _, err = run("--weight", "0.5", "--classifier", parts / "other")
    assert code == 2
    assert words in err
    assert not (parts / "two").exists()
