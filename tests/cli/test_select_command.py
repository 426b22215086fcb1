"""`lockgate select` from files to a file that `lockgate label` takes, and what it refuses."""

import io
import json
import sys

import pytest
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cli import main
from lockgate.exchanges import prompt_text, read_exchanges, write_exchanges
from lockgate.traffic import manifest_of


@pytest.fixture
def run(capsys, saved_backbone, tmp_path, monkeypatch):
    make_guard(Backbone.load(saved_backbone("llama")), flag=0.2).save(tmp_path / "guard")
    rows = [make_exchange(i, 2 + i % 9) for i in range(24)]
    write_exchanges(tmp_path / "traffic.jsonl", rows)
    write_exchanges(tmp_path / "labelled.jsonl", [make_exchange(i, 3, label=1.0) for i in range(3)])
    monkeypatch.chdir(tmp_path)

    def run(*arguments, source="traffic.jsonl"):
        given = ["select", "guard", "--input", source, "--output", "chosen.jsonl"]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*given, "--backbone", saved_backbone("llama"), *arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def label(monkeypatch, capsys, keys: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
    with pytest.raises(SystemExit) as ended:
        main(["label", "chosen.jsonl"])
    assert ended.value.code == 0
    capsys.readouterr()


def test_rounds_of_selection_and_labels_never_meet_a_prompt_again(run, tmp_path, monkeypatch, capsys) -> None:
    code, out, err = run("--n", 4, "--json")
    assert code == 0, err
    assert "name those of calibration and test with --held-out" in err
    found = json.loads(out)
    assert found["file"]["rows"] == 4
    del found["output"]
    assert json.loads(manifest_of(tmp_path / "chosen.jsonl").read_text()) == found
    first = [prompt_text(row) for row in read_exchanges(tmp_path / "chosen.jsonl")]
    label(monkeypatch, capsys, "ynyn")
    code, out, err = run("--n", 4, "--known", "reviews.jsonl")
    assert code == 0, err
    assert "4 of " in out
    assert "reviewed" in out
    assert "next: lockgate label chosen.jsonl" in out
    second = [prompt_text(row) for row in read_exchanges(tmp_path / "chosen.jsonl")]
    assert not set(first) & set(second)
    assert len(set(second)) == 4
    # Held-out prompts are not chosen either.
    code, out, err = run("--n", 99, "--held-out", "chosen.jsonl", "--known", "reviews.jsonl")
    assert code == 0, err
    assert "name those of calibration" not in err
    assert "fewer than 99: " in out
    third = {prompt_text(row) for row in read_exchanges(tmp_path / "chosen.jsonl")}
    assert not third & {*first, *second}


@pytest.mark.parametrize(
    ("arguments", "source", "words"),
    [
        ((), "labelled.jsonl", "--input: no exchange to choose from (3 labelled)"),
        ((), "none.jsonl", "none.jsonl"),
        (("--known", "none.jsonl"), "traffic.jsonl", "none.jsonl: no such file"),
        (("--known", "traffic.jsonl"), "traffic.jsonl", "traffic.jsonl:1: verdict: field required"),
        (("--held-out", "none.jsonl"), "traffic.jsonl", "none.jsonl: no such file"),
        (("--output", "traffic.jsonl"), "traffic.jsonl", "--output: traffic.jsonl is an input"),
        (("--output", "chosen.txt"), "traffic.jsonl", "unknown kind of file"),
        (("--n", "0"), "traffic.jsonl", "--n"),
    ],
)
def test_what_cannot_be_chosen_from_is_an_error_before_the_scoring(
    run, tmp_path, arguments, source, words
) -> None:
    code, out, err = run(*arguments, source=source)
    assert (code, out) == (2, "")
    assert words in err
    assert not list(tmp_path.glob("*.state"))
    assert not (tmp_path / "chosen.jsonl").exists()
