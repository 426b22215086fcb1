"""`python -m recipes.reproduce_ccpp.study`: what it writes and prints, and what it refuses."""

import json

import pytest
from studies import make_study

from recipes.reproduce_ccpp.study.__main__ import main


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_a_spec_makes_the_comparison(run, tmp_path):
    spec = make_study(tmp_path, operating_point=0.001)
    code, out, err = run(spec, "--name", "mine", "--output", tmp_path / "out", "--json")
    assert code == 0, err
    document = json.loads(out)
    result = document["systems"]
    assert result["name"] == "mine"
    assert json.loads((tmp_path / "out" / "systems.json").read_text()) == result
    assert "<svg" in (tmp_path / "out" / "systems.html").read_text()
    inputs = result["provenance"]["inputs"]
    assert len(inputs) == 1 + 4 * 7 * 2 + 7
    assert str(spec) in inputs

    code, out, err = run(spec, "--output", tmp_path / "out")
    assert code == 0
    assert out.startswith("made up: ")
    assert "note: 200 calibration prompts are too few for a share of 0.001" in err
    line = next(line for line in out.splitlines() if line.startswith("production\t"))
    assert len(line.split("\t")) == 7
    assert line.split("\t")[3].endswith("]")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{wrong}", "wrong.yaml: verdict: Extra inputs are not permitted"),
        ("nowhere.yaml", "nowhere.yaml: cannot be read as YAML"),
        ("{spec}", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_used_is_exit_code_two(run, tmp_path, spec, message):
    fields = "exchange: none\nverdict_tokens: 4\nharmful: [one]\nproduction: {escalation: 0.1, weight: 0.5}\n"
    files = {"spec": tmp_path / "spec.yaml", "wrong": tmp_path / "wrong.yaml"}
    files["spec"].write_text(fields)
    files["wrong"].write_text(fields + "verdict: 3\n")
    code, _, err = run(spec.format(**files), "--output", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()
