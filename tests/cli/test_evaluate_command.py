import json

import numpy as np
import pytest
from scores import make_scores

from lockgate.cli import main


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    tables = {
        "test": make_scores(200, seed=1),
        "more": make_scores(100, seed=2, prefix="m"),
        "other": make_scores(200, seed=1, gap=1.0),
        "benign": make_scores(1500, seed=3, harmful=0.0, prefix="c"),
        "text": make_scores(200, seed=1, gap=1.5),
    }
    for name, table in tables.items():
        table.with_column("baseline_noise", rng.normal(size=len(table))).write(tmp_path / f"{name}.parquet")
    return {name: tmp_path / f"{name}.parquet" for name in tables}


def test_scores_make_a_report(run, files, tmp_path):
    code, out, _ = run(
        "evaluate", "mine", "--scores", files["test"], "--scores", files["more"], "--calibration",
        files["benign"], "--output", tmp_path / "out", "--resamples", "100", "--json",
    )  # fmt: skip
    document = json.loads(out)
    assert code == 0
    result = document["results"][0]
    assert (result["name"], result["n"], result["n_calibration"]) == ("mine", 300, 1500)
    assert [scorer["name"] for scorer in result["scorers"]] == [
        "probe",
        "prompt_alone",
        "length_alone",
        "noise",
    ]
    assert set(result["provenance"]["inputs"]) == {str(files[n]) for n in ("test", "more", "benign")}
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == result
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_two_guards_give_paired_differences(run, files, tmp_path):
    code, out, _ = run(
        "evaluate", "a", "b", "--scores", files["test"], "--scores-b", files["other"], "--calibration",
        files["benign"], "--calibration-b", files["benign"], "--output", tmp_path, "--resamples", "100",
    )  # fmt: skip
    assert code == 0
    assert "a minus b, 200 exchanges, paired by prompt" in out
    difference = next(line for line in out.splitlines() if line.startswith("auroc\t"))
    assert difference.split("\t")[3].startswith("+")
    assert (tmp_path / "second" / "report.html").exists()
    assert json.loads((tmp_path / "report.json").read_text())["comparison"]["n"] == 200


def test_a_baseline_table_stands_beside_the_probe(run, files, tmp_path):
    code, out, err = run(
        "evaluate", "a", "--scores", files["test"], "--baseline", f"text={files['text']}",
        "--baseline-calibration", f"text={files['benign']}", "--output", tmp_path, "--resamples", "100",
    )  # fmt: skip
    assert code == 0
    assert any(line.startswith("text\t") for line in out.splitlines())
    assert "come from the evaluated benign rows" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "give either --input"),
        (["a", "b", "--scores", "{test}"], "two guards need two sets"),
        (["a", "--scores", "{test}", "--scores-b", "{other}"], "two guards need two sets"),
        (["a", "b", "--input", "x.jsonl", "--scores-b", "{test}"], "goes with --scores"),
        (["a", "--scores", "{test}", "--baseline", "text"], "expected NAME=FILE"),
        (["a", "--scores", "{test}", "--baseline-calibration", "text={test}"], "no --baseline"),
        (["a", "--scores", "{test}", "--baseline", "text=nowhere"], "nowhere: cannot be read"),
        (["a", "--scores", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_wrong_usage_is_exit_code_two(run, files, tmp_path, arguments, message):
    filled = [argument.format(**files) for argument in arguments]
    code, _, err = run("evaluate", *filled, "--output", tmp_path / "out")
    assert code == 2
    assert message in err
