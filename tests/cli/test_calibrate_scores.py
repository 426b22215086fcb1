"""`lockgate calibrate --scores` without a guard: another program's scores become a threshold with a claim."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scores import make_scores

from lockgate.calibration import choose_threshold, clopper_pearson, required_n
from lockgate.cli import main
from lockgate.traffic import ScoreThreshold

N = 700
NAMES = ("--score-column", "risk", "--prompt-column", "ask")
MORE = (
    *("--id-column", "name", "--source-column", "from", "--language-column", "tongue"),
    *("--length-column", "size", "--turns-column", "turns"),
)


def make_rows(n: int = N, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "risk": f"{rng.normal():.6f}", "ask": f"Which of the {i} locks, please?", "name": f"row-{i}",
            "from": "chat" if i % 3 else "mail", "tongue": "en" if i % 2 else "", "size": i % 97, "bad": "",
            "turns": 2 + i % 4,
        }
        for i in range(n)
    ]  # fmt: skip


def write(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", "--budget", "0.01", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.mark.parametrize("lower", [False, True])
def test_the_threshold_is_the_one_of_the_library(run, tmp_path, lower) -> None:
    rows = make_rows()
    path, output = write(tmp_path / "s.csv", rows), tmp_path / "threshold.json"
    flags = ("--lower-is-harmful",) if lower else ()
    code, out, err = run("--scores", path, *NAMES, *MORE, *flags, "--output", output, "--json")
    assert code == 0, err
    document = json.loads(out)
    scores = np.array([float(row["risk"]) for row in rows])
    expected = choose_threshold(-scores if lower else scores, [row["ask"] for row in rows], 0.01, 0.0)
    found = ScoreThreshold.read(output)
    assert found.to_dict() == document["threshold"] == json.loads(output.read_text())
    assert found.threshold == (-expected.threshold if lower else expected.threshold)
    assert (found.column, found.harmful) == ("risk", "lower" if lower else "higher")
    assert (found.n, found.k, found.bound) == (N, expected.k, expected.bound)
    assert sum(found.flags(score) for score in scores) == expected.flagged
    assert found.length_deciles[0] == 0
    assert found.length_deciles[-1] == 96
    ordered = sorted(scores) if lower else sorted(scores, reverse=True)
    assert [row["score"] for row in document["highest"]] == ordered[:30]
    assert {part["by"] for part in document["slices"]} == {"source", "language", "length", "turns"}
    assert document["minimum_coverage"] == required_n(0.01)
    cuts = [row["cut"] for row in document["budgets"] if row["budget"] == 0.01]
    assert cuts == [found.cut]


def test_text_says_what_no_part_can_claim(run, tmp_path) -> None:
    path = write(tmp_path / "s.csv", make_rows())
    code, out, err = run("--scores", path, *NAMES, *MORE, "--output", tmp_path / "t.json")
    assert code == 0, err
    assert "budget\tflags allowed\tupper bound\tthreshold\tprompts needed" in out
    assert f"at least {required_n(0.01)} distinct prompts, none of them flagged" in out
    assert "source\tchat\t466\t" in out
    assert "score > threshold - tolerance" in out
    assert f"threshold written to {tmp_path / 't.json'}" in out
    assert "locks" not in out + err + (tmp_path / "t.json").read_text()


def test_labelled_rows_show_what_the_threshold_finds(run, tmp_path) -> None:
    rows = make_rows()
    for number, row in enumerate(rows[::10]):
        row["bad"], row["risk"] = "1", str(9.0 if number % 2 else -9.0)
    path = write(tmp_path / "s.csv", rows)
    named = ("--scores", path, *NAMES, "--label-column", "bad")
    code, _, err = run(*named, "--output", tmp_path / "t.json")
    assert code == 2
    assert "70 rows are labelled harmful, the first with id s.csv:1" in err
    assert not (tmp_path / "t.json").exists()
    code, out, err = run(*named, "--labelled", "--output", tmp_path / "t.json", "--json")
    assert code == 0, err
    recall = ScoreThreshold.read(tmp_path / "t.json").recall
    assert (recall["n"], recall["flagged"], recall["share"]) == (70, 35, 0.5)
    assert recall["interval"] == list(clopper_pearson(35, 70))
    assert json.loads(out)["threshold"]["n"] == N - 70
    assert [row["recall"] is None for row in json.loads(out)["budgets"]] == [
        row["cut"] is None for row in json.loads(out)["budgets"]
    ]
    _, out, _ = run(*named, "--labelled")
    assert "35 of 70 harmful prompts are flagged, 50.0%" in out
    assert "\tharmful found" in out
    for row in rows:
        row["bad"] = "0"
    code, _, err = run(*named[:1], write(path, rows), *named[2:], "--labelled")
    assert code == 2
    assert "--labelled: 0 of 700 rows are labelled harmful" in err


def test_too_few_prompts_say_how_many_are_needed(run, tmp_path) -> None:
    path = write(tmp_path / "s.csv", make_rows(50))
    code, out, err = run("--scores", path, *NAMES, "--output", tmp_path / "t.json")
    assert code == 2
    assert f"at least {required_n(0.01)} distinct prompts" in err
    assert "prompts needed" in out
    assert not (tmp_path / "t.json").exists()


def test_exclusions_and_own_tables_work_as_with_a_guard(run, tmp_path) -> None:
    table = make_scores(500, harmful=0.0)
    table.write(tmp_path / "own.parquet")
    top = table.ids[int(np.argmax(table.floats("mixed_max")))]
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": top, "reason": "read"}))
    code, _, err = run(
        *("--scores", tmp_path / "own.parquet", "--exclude", tmp_path / "x.jsonl"),
        *("--tolerance", "0.5", "--output", tmp_path / "t.json"),
    )
    assert code == 0, err
    found = ScoreThreshold.read(tmp_path / "t.json")
    assert (found.n, found.excluded, found.column, found.tolerance) == (499, 1, "mixed_max", 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "GUARD: missing; give a guard, or scores"),
        (("--input", "x.jsonl"), "GUARD: missing, and --input needs it"),
        (("--scores", "s.csv"), "--score-column: missing"),
        (("--scores", "s.csv", "--group-column", "g"), "--score-column: missing"),
        (("--scores", "s.csv", "--score-column", "risk"), "--prompt-column: name the column"),
        (("--scores", "s.csv", *NAMES, "--output", "."), "--output: . is a folder"),
        (("--scores", "s.csv", *NAMES, "--output", "no/t.json"), "--output: the folder no does not exist"),
        (("--scores", "s.csv", *NAMES, "--classifier", "c"), "--classifier needs it"),
        (("guard", "--scores", "s.csv", *NAMES), "--score-column: it is for scores of another program"),
        (("guard", "--scores", "s.csv", "--labelled"), "--labelled: it is for scores of another program"),
        (("--scores", "s.csv", "--score-column", "no", "--group-column", "ask"), "s.csv: no column no"),
    ],
)
def test_wrong_usage_is_exit_code_two(run, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.csv", make_rows(5))
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
