"""calibrate and evaluate with a real (tiny, random) guard: from exchanges to a bundle or a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import random_head, tiny_backbone, tiny_model, tiny_tokenizer

from lockgate.cascade import Thresholds
from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import score_file

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved tiny backbone with two guards for it, and two small files of exchanges."""
    folder = tmp_path_factory.mktemp("guards")
    tiny_model().save_pretrained(folder / "backbone")
    tiny_tokenizer().save_pretrained(folder / "backbone")
    name = "general-harms"
    for seed, guard in enumerate(("first", "second")):
        Guard.create(
            name=guard,
            backbone=tiny_backbone(),
            constitution=load_constitution(name),
            constitution_yaml=constitution_path(name).read_text(encoding="utf-8"),
            head=random_head(tiny_backbone(), seed),
            thresholds=Thresholds(flag=0.5, tolerance=1e-3),
        ).save(folder / guard)
    write_exchanges(folder / "traffic.jsonl", [exchange(i, None) for i in range(80)])
    write_exchanges(folder / "test.jsonl.gz", [exchange(i, float(i % 2)) for i in range(100, 130)])
    return folder


def exchange(i, label):
    words = " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 4 + i % 9))
    messages = (Message("user", f"tell me of {words} {i}"), Message("assistant", f"the {words} is old"))
    return Exchange(messages, label=label, source="made")


@pytest.fixture
def run(capsys, folder):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*(str(argument) for argument in arguments), "--backbone", str(folder / "backbone")])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_calibrate_writes_a_guard_that_keeps_the_budget_on_its_traffic(run, folder, tmp_path):
    code, out, err = run(
        "calibrate", folder / "first", "--input", folder / "traffic.jsonl", "--budget", "0.1",
        "--output", tmp_path / "new", "--save-scores", tmp_path / "scores.parquet", "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    guard = Guard.load(tmp_path / "new", backbone=folder / "backbone")
    assert guard.calibration.to_dict() == document["calibration"]
    assert guard.thresholds.flag == document["calibration"]["threshold"]
    assert any("80 distinct prompts" in line for line in guard.record.claim)
    again = score_file(guard, folder / "traffic.jsonl", tmp_path / "again.parquet")
    assert again.flagged.sum() == document["calibration"]["flagged"] <= document["calibration"]["k"]
    kept = ScoresTable.read(tmp_path / "scores.parquet")
    assert np.allclose(kept.floats("mixed_max"), again.floats("mixed_max"))


def test_calibrate_on_kept_scores_gives_the_same_threshold(run, folder, tmp_path):
    arguments = ["calibrate", folder / "first", "--budget", "0.1", "--json"]
    code, scored, _ = run(
        *arguments, "--input", folder / "traffic.jsonl", "--save-scores", tmp_path / "s.parquet"
    )
    assert code == 0
    _, read, _ = run(*arguments, "--scores", tmp_path / "s.parquet")
    assert json.loads(read)["calibration"] == json.loads(scored)["calibration"]


def test_calibrate_refuses_harmful_rows_before_it_scores(run, folder, tmp_path):
    code, _, err = run(
        "calibrate", folder / "first", "--input", folder / "test.jsonl.gz", "--output", tmp_path / "new"
    )
    assert code == 2
    assert "exchange 2 is labelled harmful" in err
    assert not (tmp_path / "new").exists()


def test_evaluate_scores_a_file_and_compares_two_guards(run, folder, tmp_path):
    code, out, err = run(
        "evaluate", folder / "first", folder / "second", "--input", folder / "test.jsonl.gz",
        "--output", tmp_path, "--resamples", "100", "--json",
    )  # fmt: skip
    assert code == 0, err
    first, second = json.loads(out)["results"]
    assert (first["n_harmful"], first["n_benign"]) == (15, 15)
    assert first["comparison"]["n"] == 30
    assert second["comparison"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "report.json", "scores", "scores_b", "second",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["0_test.parquet"]


def test_missing_files_are_exit_code_two(run, folder, tmp_path):
    for command in ("calibrate", "evaluate"):
        code, _, err = run(
            command, folder / "first", "--input", tmp_path / "no.jsonl", "--output", tmp_path / "o"
        )
        assert code == 2
        assert "no.jsonl" in err
