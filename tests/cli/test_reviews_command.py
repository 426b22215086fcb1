"""`lockgate reviews export`: the file that a build reads, from an operations database and a log."""

import json
from pathlib import Path

import pytest
from logs import decision, opened_log

from lockgate.cli import main
from lockgate.constitution import load_constitution
from lockgate.databases import Place
from lockgate.decisions import Content, Turn
from lockgate.feedback import read_feedback
from lockgate.reviews import Review, Reviews


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, capsys.readouterr()

    return run


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """An operations database with three verdicts, and a log that has the text of two."""
    where, operations = tmp_path / "decisions.db", tmp_path / "operations.db"
    log = opened_log(where, content="full")
    for number in range(2):
        turns = (Turn("user", f"What does boat {number} carry?"), Turn("assistant", "Gravel."))
        log.write(decision(number), content=Content(turns))
    log.close()
    reviews = Reviews(Place.of(operations, "reviews", "NO_PASSWORD"))
    reviews.open()
    for number, tenant in enumerate(("mill", "harbour", "mill")):
        reviews.add(
            Review(
                tenant=tenant,
                exchange=f"chatcmpl-{number}",
                choice=0,
                reviewer="mill/ann",
                picked="random",
                verdict="harmless",
            )
        )
    reviews.close()
    return operations, where


def test_the_file_is_what_a_build_reads(run, places, tmp_path):
    operations, log = places
    output = tmp_path / "out.jsonl"
    code, said = run("reviews", "export", operations, "--log", log, "--output", output)
    assert (code, said.out) == (0, f"2 reviews written to {output}\n")
    assert said.err == "1 left out. 1: the log no longer has the exchange\n"
    found = read_feedback(output, load_constitution("stage-magic"))
    assert [review.verdict for review in found.reviews] == ["harmless", "harmless"]


def test_one_tenant_as_json(run, places, tmp_path):
    operations, log = places
    output = tmp_path / "out.jsonl"
    code, said = run(
        "reviews", "export", operations, "--log", log, "--output", output, "--tenant", "harbour", "--json"
    )
    told = json.loads(said.out)
    assert (code, told["reviews"], told["left_out"]) == (0, 1, 0)
    assert "boat 1" in output.read_text()


def test_errors_are_one_line_and_leave_the_old_file(run, places, tmp_path):
    operations, log = places
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    cases = {
        ("nowhere.db", log, output): "no such file",
        (log, log, output): "there is no review database in it",
        (operations, tmp_path / "nowhere.db", output): "no such file",
        (operations, log, tmp_path / "out.csv"): "expected a name that ends with .jsonl",
    }
    for (where, logged, target), words in cases.items():
        code, said = run("reviews", "export", where, "--log", logged, "--output", target)
        assert (code, said.out) == (2, "")
        assert words in said.err
        assert said.err.count("\n") == 1
    assert output.read_text() == "old"
