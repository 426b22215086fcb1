"""`lockgate train text`: labelled exchanges become a text baseline."""

import json

import numpy as np
import pytest

from lockgate.classifiers.text import TextBaseline
from lockgate.cli import main
from lockgate.exchanges import Exchange, Message, prompt_group, write_exchanges

TOPICS = ("rivers", "bread", "clocks", "maps", "birds", "tin cans")


def row(number: int, label: float | None, answer: str | None = None) -> Exchange:
    asked = Message("user", f"tell me about {TOPICS[number % 6]} {number // 3}")
    said = f"PLACEHOLDER {number}" if label else f"a short history of {TOPICS[number % 6]}, part {number}"
    return Exchange((asked, Message("assistant", answer or said)), label)


ROWS = [row(number, float(number // 6 % 2)) for number in range(72)]


@pytest.fixture
def run(capsys, tmp_path):
    def run(*more, rows=ROWS):
        write_exchanges(tmp_path / "data.jsonl", rows)
        words = ["train", "text", "--input", tmp_path / "data.jsonl", "--output", tmp_path / "text"]
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in (*words, "--bits", "10", *more)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_baseline_finds_the_harmful_answers(run, tmp_path) -> None:
    prompt_only = Exchange((Message("user", "a prompt alone"),))
    code, out, err = run("--json", rows=[*ROWS, prompt_only])
    assert code == 0, err
    found = json.loads(out)
    made = TextBaseline.load(tmp_path / "text")
    assert (found["sha256"], found["c"]) == (made.sha256, made.c)
    assert (found["exchanges"], found["without_answer"], found["invalid"]) == (72, 1, 0)
    assert found["prompts"] == len({prompt_group(row) for row in ROWS}) == len(made.training_prompts)
    assert {line["c"] for line in found["cross_validation"]} == set(made.config.cs)
    scores = made.decision_function(ROWS)
    labels = np.array([row.label for row in ROWS]) >= 0.5
    assert scores[labels].min() > scores[~labels].max()
    assert made.rounded().sha256 == made.sha256
    # An older baseline in the same place is replaced.
    code, out, err = run("--seed", "1")
    assert code == 0, err
    assert "log loss" in out
    assert "fitted on 72 exchanges" in out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(number, 1.0) for number in range(30)], "training needs both classes"),
        ([*ROWS, row(80, None)], "1 of 73 exchanges have no label"),
        (ROWS[:2], "prompt groups cannot make 5 folds"),
        ([Exchange((Message("user", "secret"),), 1.0)], "0 prompt groups"),
    ],
)
def test_data_that_can_not_train_is_refused(run, tmp_path, rows, message) -> None:
    code, _, err = run(rows=rows)
    assert code == 2
    assert message in err
    assert "secret" not in err
    assert not (tmp_path / "text").exists()


@pytest.mark.parametrize(("option", "value"), [("--bits", "30"), ("--folds", "1")])
def test_settings_out_of_range_are_refused_before_the_reading(run, option, value) -> None:
    code, _, err = run(option, value, rows=[])
    assert code == 2
    assert f"{option} is {value}" in err


def test_other_files_are_not_replaced(run, tmp_path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "novel.txt").write_text("x")
    code, _, err = run()
    assert code == 2
    assert "is no text baseline" in err
    (tmp_path / "text" / "novel.txt").unlink()
    (tmp_path / "text").rmdir()
    (tmp_path / "text").write_text("x")
    code, _, err = run()
    assert code == 2
    assert "is not a folder" in err
