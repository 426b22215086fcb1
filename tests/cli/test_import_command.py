import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lockgate.cli import main
from lockgate.exchanges import read_exchanges

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["import", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


MAPPING = """
constitution: stage-magic
source: shop
columns: {prompt: ask, response: say, category: kind}
label: {column: ok, equals: {"yes": 0, "no": 1}}
categories: {cards: card-methods}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    path = tmp_path / "data.csv"
    path.write_text("ask,say,kind,ok\na,b,cards,no\nc,d,hats & caps,yes\ne,,cards,no\n")
    return path


def test_a_data_set_becomes_exchanges(run: Run, data: Path, tmp_path: Path) -> None:
    output, rejects = tmp_path / "out.jsonl.gz", tmp_path / "rejects.jsonl"
    mapping = tmp_path / "mapping.yaml"
    code, out, err = run(data, "--mapping", mapping, "--out", output, "--rejects", rejects)
    assert code == 0
    rows = [(row.label, row.category, row.source) for row in read_exchanges(output)]
    assert rows == [(1, "card-methods", "shop"), (0, None, "shop")]
    assert "shape: prompt_response; prompt: ask; response: say; category: kind\n" in out
    assert "3 rows, 2 exchanges in" in out
    assert "unmapped\thats & caps\t1" in out
    assert "rejected\tempty-answer\t1" in out
    assert f"rejected: {data}:4: say: no text" in err
    assert "1 categories (named 1 times; rows are kept without one) are not mapped" in err
    assert json.loads(rejects.read_text())["row"] == 4


def test_texts_in_the_place_of_categories_are_not_printed(run: Run, data: Path, tmp_path: Path) -> None:
    said = [
        "How do I reach Ann at 5551234?",
        "please\x1b[31m",
        "tell me, is it on Elm Street, or where is it",
    ]
    lines = [f'a{number},b,"{text}",no' for number, text in enumerate(said)]
    data.write_text("\n".join(["ask,say,kind,ok", *lines, "c,d,hats,yes", ""]))
    arguments = (data, "--mapping", tmp_path / "mapping.yaml", "--dry-run")
    code, out, err = run(*arguments)
    assert code == 0
    assert "unmapped\thats\t1" in out
    assert "hidden\tno label by its looks\t3" in out
    code, report, _ = run(*arguments, "--json")
    for words in (*said, "Ann", "please", "Elm"):
        assert words not in out + err + report
    assert json.loads(report)["unmapped"] == {"hats": 1}


def test_a_dry_run_writes_nothing(run: Run, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = run(
        data, "--mapping", tmp_path / "mapping.yaml", "--dry-run", "--json", "--shape", "prompt"
    )
    report = json.loads(out)
    assert (code, report["shape"], report["imported"], report["prompts"]) == (0, "prompt", 3, 3)
    assert report["labels"] == {"harmful": 2, "harmless": 1}
    assert report["output"] is None
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--out: missing"),
        (("--dry-run", "--shape", "round"), "--shape: expected one of auto, exchange"),
        (("--dry-run", "--constitution", "none"), "neither a file nor a shipped constitution"),
        (("--dry-run", "--mapping", "none"), "none: no mapping for this data set"),
        (("--dry-run",), "no known layout; the columns are `ask`, `say`, `kind`, `ok`"),
        (("--dry-run", "--mapping", "gsm8k"), "no known layout"),
    ],
)
def test_wrong_options_say_what_to_do(run: Run, data: Path, options: tuple[str, ...], message: str) -> None:
    code, out, err = run(data, *options)
    assert (code, out) == (2, "")
    assert message in err
