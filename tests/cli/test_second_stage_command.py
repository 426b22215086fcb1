"""`lockgate calibrate --classifier`: a guard of one stage and a trained classifier become a guard of two."""

import json
import random

import numpy as np
import pytest
from classifying import random_classifier, tiny_classifier
from models import random_head, tiny_backbone

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.evaluation import ScoresTable
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard, read_bundle

WORDS = ("mill", "lock", "boat", "orchard", "lantern", "mirror", "kettle", "ladder")
N = 60


def row(number: int, label: float | None = None, answer: bool = True) -> Exchange:
    """An exchange with a prompt of its own."""
    draw = random.Random(number)
    asked = Message("user", f"{number} " + " ".join(draw.choices(WORDS, k=4)))
    said = Message("assistant", " ".join(draw.choices(WORDS, k=draw.randint(3, 9))))
    return Exchange((asked, said) if answer else (asked,), label)


@pytest.fixture
def parts(tmp_path):
    """Folders and files that the command reads."""
    backbone = tiny_backbone()
    guard = Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone),
        thresholds=Thresholds(0.5, flag_on="both"),
    )
    guard.save(tmp_path / "guard")
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
    code, out, err = run(
        "--development", parts / "dev.jsonl", "--escalation", "0.4", "--save-scores", parts / "s.parquet",
        "--training", parts / "dev2.jsonl", "--json",
    )  # fmt: skip
    assert code == 2
    assert "dev2.jsonl" in err
    write_exchanges(parts / "train.jsonl", [row(5000 + i, float(i % 2)) for i in range(8)])
    code, out, err = run(
        "--development", parts / "dev.jsonl", "--escalation", "0.4", "--save-scores", parts / "s.parquet",
        "--training", parts / "train.jsonl", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    stage, calibration = found["second_stage"], found["calibration"]
    assert (calibration["n"], found["without_answer"]) == (N, 1)
    assert 0 < stage["escalated"] <= 0.4
    assert max(share["tpr"] for share in stage["weights"]) == next(
        share["tpr"] for share in stage["weights"] if share["weight"] == stage["weight"]
    )
    kept = ScoresTable.read(parts / "s.parquet")
    guard = Guard.load(parts / "two", backbone=saved_backbone("llama"))
    again = list(guard.score_many([row(i) for i in range(N)]))
    np.testing.assert_allclose(kept.floats("mixed_max"), [score.mixed_max for score in again], atol=1e-4)
    assert kept.flagged.tolist() == [score.flagged for score in again]
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


def test_a_refused_calibration_keeps_what_was_read(run, parts, monkeypatch):
    code, _, err = run("--weight", "0.5", "--budget", "0.001")
    assert code == 2
    assert "distinct prompts" in err
    assert not (parts / "two").exists()
    assert (parts / "two.state").is_dir()
    monkeypatch.setattr(Guard, "score_many", None)
    code, _, err = run("--weight", "0.5", "--escalation", "0.4")
    assert code == 0, err
    assert not (parts / "two.state").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "give either --development"),
        (("--weight", "0.5", "--development", "dev.jsonl"), "give either --development"),
        (("--weight", "1.5"), "from 0 to 1"),
        (("--weight", "0.5", "--escalation", "1"), "between 0 and 1"),
        (("--weight", "0.5", "--tolerance", "0.1"), "leave it out"),
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
    write_exchanges(parts / "shared.jsonl", [row(2000, 1.0), row(3, 0.0)])
    code, _, err = run(*(parts / part if part.endswith(".jsonl") else part for part in more))
    assert code == 2
    assert words in err
    assert not (parts / "two.state").exists()


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
    assert "--classifier needs --input" in capsys.readouterr().err


@pytest.mark.parametrize(("fields", "words"), [({"reads": "prompt"}, "exchange"), (None, "backbone")])
def test_a_classifier_that_does_not_fit_is_refused(run, parts, fields, words):
    other = random_classifier(tiny_backbone(), **fields) if fields else tiny_classifier("qwen2")
    other.save(parts / "other")
    code, _, err = run("--weight", "0.5", "--classifier", parts / "other")
    assert code == 2
    assert words in err
    assert not (parts / "two").exists()
