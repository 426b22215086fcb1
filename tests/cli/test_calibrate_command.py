import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scores import make_scores

from lockgate.calibration import choose_threshold
from lockgate.cli import main
from lockgate.tables import ScoresTable


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def traffic(tmp_path) -> Path:
    make_scores(3000, harmful=0.0).write(tmp_path / "traffic.parquet")
    return tmp_path / "traffic.parquet"


def calibrate(run, scores, *more):
    return run("calibrate", "my-guard", "--scores", scores, "--tolerance", "0.01", "--budget", "0.01", *more)


def test_json_holds_the_calibration_of_the_traffic(run, traffic):
    code, out, _ = calibrate(run, traffic, "--json")
    document = json.loads(out)
    table = ScoresTable.read(traffic)
    expected = choose_threshold(table.floats("mixed_max"), table.groups, 0.01, 0.01)
    assert code == 0
    assert document["calibration"]["threshold"] == expected.threshold
    assert document["calibration"]["sources"] == {"alpha": 1500, "beta": 1500}
    assert len(document["calibration"]["length_deciles"]) == 11
    assert [row["score"] for row in document["highest"]] == sorted(table.floats("mixed_max"))[:-31:-1]
    assert list(document["provenance"]["inputs"]) == [str(traffic)]
    assert [row["budget"] for row in document["budgets"] if row["k"] is None] == [0.0002, 0.0005]


def test_text_says_what_was_taken_as_benign(run, traffic):
    code, out, _ = calibrate(run, traffic)
    assert code == 0
    assert "3000 exchanges are taken as benign traffic" in out
    assert "budget\tflags allowed\tupper bound\tthreshold\tprompts needed" in out
    assert "no guard written: give --output" in out


def test_a_budget_beyond_the_sample_is_refused_after_the_table(run, traffic):
    code, out, err = run("calibrate", "g", "--scores", traffic, "--tolerance", "0.01", "--budget", "0.0005")
    assert code == 2
    assert "5990" in out
    assert "at least 5990 distinct prompts" in err


def test_harmful_rows_are_refused_by_id(run, tmp_path):
    table = make_scores(100, harmful=0.3)
    table.write(tmp_path / "t.parquet")
    code, _, err = calibrate(run, tmp_path / "t.parquet")
    first = table.ids[int(np.argmax(table.labels))]
    assert code == 2
    assert f"first with id {first}" in err


def test_rows_without_an_answer_are_left_out(run, tmp_path):
    table = make_scores(3000, harmful=0.0)
    answers = [None if i < 100 else 0.0 for i in range(3000)]
    position = table.table.column_names.index("max_answer")
    ScoresTable(table.table.set_column(position, "max_answer", [answers])).write(tmp_path / "t.parquet")
    _, out, _ = calibrate(run, tmp_path / "t.parquet", "--json")
    assert json.loads(out)["without_answer"] == 100
    assert json.loads(out)["calibration"]["n"] == 2900


def test_exclusions_are_listed_by_id_and_reason(run, traffic, tmp_path):
    table = ScoresTable.read(traffic)
    top = table.ids[int(np.argmax(table.floats("mixed_max")))]
    listed = tmp_path / "exclusions.jsonl"
    listed.write_text(json.dumps({"id": top, "reason": "read: harmful after all"}) + "\n\n")
    _, out, _ = calibrate(run, traffic, "--exclude", listed, "--json")
    found = json.loads(out)["calibration"]
    assert found["n"] == 2999
    assert found["excluded"] == [{"id": top, "reason": "read: harmful after all"}]
    assert found["threshold_without_exclusions"] >= found["threshold"]
    listed.write_text('{"id": "x"}\n')
    code, _, err = calibrate(run, traffic, "--exclude", listed)
    assert code == 2
    assert f"{listed}:1" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --input"),
        (["--scores", "none.parquet", "--tolerance", "0"], "none.parquet: cannot be read"),
        (["--scores", "a", "--input", "b"], "give either --input"),
    ],
)
def test_wrong_usage_is_exit_code_two(run, arguments, message):
    code, _, err = run("calibrate", "g", *arguments)
    assert code == 2
    assert message in err


def test_tables_without_prompts_are_refused(run, traffic, tmp_path):
    table = ScoresTable.read(traffic)
    ScoresTable(table.table.drop_columns(["prompt_group"])).write(tmp_path / "bare.parquet")
    code, _, err = calibrate(run, tmp_path / "bare.parquet")
    assert code == 2
    assert "prompt_group" in err


@pytest.fixture
def quiet(tmp_path) -> Path:
    """Traffic of which a first stage let all but 3 % pass, unjudged."""
    table = make_scores(3000, harmful=0.0)
    judged = np.arange(3000) % 33 == 0
    columns = {
        "mixed_max": np.where(judged, table.floats("mixed_max"), -np.inf).tolist(),
        "stage": np.where(judged, 2, 1).tolist(),
    }
    found = table.table
    for name, values in columns.items():
        position = found.column_names.index(name)
        kind = found.schema.field(name).type
        found = found.set_column(position, found.schema.field(name), pa.array(values, type=kind))
    ScoresTable(found).write(tmp_path / "quiet.parquet")
    return tmp_path / "quiet.parquet"


def test_a_budget_that_all_that_is_judged_meets_has_no_cut(run, quiet):
    code, out, err = calibrate(run, quiet, "--json")
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    rows = {row["budget"]: row for row in document["budgets"]}
    judged = ScoresTable.read(quiet).floats("mixed_max")
    assert 0 < rows[0.01]["k"] < np.isfinite(judged).sum() < rows[0.05]["k"]
    assert rows[0.01]["cut"] == sorted(judged, reverse=True)[rows[0.01]["k"]]
    assert rows[0.05]["cut"] is None
    assert document["highest"][0]["score"] == judged.max()
    code, out, err = calibrate(run, quiet)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("5.00%"))
    assert line.split("\t")[3] == "none needed"
    assert "inf" not in out
