"""`lockgate calibrate` refuses traffic that the guard was trained on."""

import json
from pathlib import Path

import pytest
from models import random_head, tiny_backbone

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message, PromptPrints, write_exchanges
from lockgate.guards import Guard, read_bundle

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]


def row(number: int, more: str = "") -> Exchange:
    prompt = f" {number} ".join(WORDS) + more
    return Exchange((Message("user", prompt), Message("assistant", "boat " * (1 + number % 5))), None)


TRAINED = [row(number) for number in range(30)]
TRAFFIC = [row(number) for number in range(100, 160)]


@pytest.fixture(scope="module")
def guards(tmp_path_factory) -> Path:
    """One guard that knows what it was trained on, and one that does not."""
    folder, backbone = tmp_path_factory.mktemp("guards"), tiny_backbone()
    guard = Guard.create(
        name="tiny", backbone=backbone, constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone), thresholds=Thresholds(0.5, flag_on="answer"),
    )  # fmt: skip
    guard.save(folder / "plain")
    guard.with_training_prompts(PromptPrints.of(TRAINED)).save(folder / "knowing")
    return folder


@pytest.fixture
def calibrate(capsys, saved_backbone, tmp_path):
    def calibrate(guard, rows, *more):
        write_exchanges(tmp_path / "traffic.jsonl", rows)
        given = ("--input", tmp_path / "traffic.jsonl") if "--scores" not in more else ()
        arguments = (
            "calibrate",
            guard,
            *given,
            "--budget",
            "0.2",
            *more,
            "--backbone",
            saved_backbone("llama"),
        )
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return calibrate


def test_equal_and_near_prompts_are_refused_before_anything_is_scored(guards, calibrate, tmp_path) -> None:
    near = row(3, " and the sea").id
    code, out, err = calibrate(
        guards / "knowing", [*TRAFFIC, TRAINED[7], row(3, " and the sea")], "--output", tmp_path / "made"
    )
    assert (code, out) == (2, "")
    assert "2 of 62 calibration exchanges have prompts that the guard was trained on" in err
    assert f"1 equal, 1 near-duplicates), the first with ids {TRAINED[7].id}, {near}: " in err
    assert not (tmp_path / "made").exists()
    exclude = tmp_path / "exclude.jsonl"
    listed = [{"id": identity, "reason": "trained on"} for identity in (TRAINED[7].id, near)]
    exclude.write_text("".join(json.dumps(line) + "\n" for line in listed))
    code, _, err = calibrate(
        guards / "knowing", [*TRAFFIC, TRAINED[7], row(3, " and the sea")], "--exclude", exclude,
        "--output", tmp_path / "made",
    )  # fmt: skip
    assert code == 0, err
    bundle = read_bundle(tmp_path / "made")
    assert bundle.record.calibration["n"] == 60
    assert "none of 30 training prompts is in this traffic" in bundle.record.claim[-1]
    assert len(bundle.prompts) == 30


def test_a_scores_table_is_checked_for_equal_prompts(guards, calibrate, tmp_path) -> None:
    scores = tmp_path / "scores.parquet"
    code, out, err = calibrate(guards / "plain", [*TRAFFIC, TRAINED[7]], "--save-scores", scores)
    assert code == 0, err
    assert "not checked, the guard holds no fingerprints of its training prompts; give them with" in out
    code, _, err = calibrate(guards / "knowing", [], "--scores", scores)
    assert code == 2
    assert "1 of 61 calibration exchanges have prompts that the guard was trained on (1 equal, 0 near" in err
    write_exchanges(tmp_path / "train.jsonl", TRAINED[:3])
    code, out, err = calibrate(
        guards / "plain", [], "--scores", scores, "--training", tmp_path / "train.jsonl", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["overlap_with_training"].startswith("none of 3 training prompts")
    code, out, err = calibrate(guards / "none", [], "--scores", scores, "--tolerance", 0)
    assert code == 0, err
    assert "not checked, no guard was read" in out


def test_a_training_file_speaks_for_a_guard_that_does_not_know(guards, calibrate, tmp_path) -> None:
    write_exchanges(tmp_path / "train.jsonl", TRAINED)
    training = ("--training", tmp_path / "train.jsonl")
    code, _, err = calibrate(guards / "plain", [*TRAFFIC, TRAINED[2]], *training)
    assert code == 2
    assert f"the first with ids {TRAINED[2].id}:" in err
    (tmp_path / "train.jsonl").write_text("")
    code, _, err = calibrate(guards / "plain", TRAFFIC, *training)
    assert code == 2
    assert "train.jsonl: no exchange" in err
