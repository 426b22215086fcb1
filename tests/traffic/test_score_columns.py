"""Scores of other programs: every cell arrives in the table or is refused by file, column and row."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.errors import CalibrationError, ConfigError, ExchangeError
from lockgate.exchanges import text_hash
from lockgate.traffic import ScoreColumns, read_score_columns

ROWS = [
    {"risk": 0.25, "ask": "Where is the mill?", "name": "a", "bad": "", "place": "north", "tongue": "en",
     "size": 12, "turns": 2},
    {"risk": -3.0, "ask": 'A "lock",\nand a gate', "name": "b", "bad": "1", "place": "", "tongue": "",
     "size": 5.5, "turns": 4},
    {"risk": 1e-9, "ask": "where is the MILL", "name": "c", "bad": "false", "place": "north", "tongue": "fr",
     "size": 0, "turns": 3},
]  # fmt: skip
ALL = ScoreColumns(
    "risk", prompt="ask", id="name", label="bad", source="place", language="tongue", length="size",
    turns="turns",
)  # fmt: skip


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows as a CSV file (by the standard library) or as Parquet."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz", "s.parquet"])
def test_every_column_arrives(tmp_path, name) -> None:
    table = read_score_columns([write(tmp_path / name, ROWS)], ALL)
    assert table.floats("mixed_max").tolist() == table.floats("max_answer").tolist() == [0.25, -3.0, 1e-9]
    assert table.ids == ["a", "b", "c"]
    assert table.groups == [text_hash(row["ask"]) for row in ROWS]
    assert table.groups[0] == table.groups[2] != table.groups[1]
    assert [None if np.isnan(label) else label for label in table.labels] == [None, 1.0, 0.0]
    assert table.texts("source") == ["north", "", "north"]
    assert table.texts("language") == ["en", None, "fr"]
    assert table.lengths.tolist() == [12, 5.5, 0]
    assert table.floats("turns").tolist() == [2, 4, 3]
    assert not any("mill" in str(column.to_pylist()).lower() for column in table.table.columns)


def test_without_optional_columns_rows_have_numbers_as_ids(tmp_path) -> None:
    files = [write(tmp_path / name, ROWS[:2]) for name in ("one.csv", "two.csv")]
    table = read_score_columns(files, ScoreColumns("risk", group="name"))
    assert table.ids == ["one.csv:1", "one.csv:2", "two.csv:1", "two.csv:2"]
    assert table.groups == ["a", "b", "a", "b"]
    assert np.isnan(table.labels).all()
    assert not table.has_lengths
    assert not table.has("language")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=30), st.booleans())
def test_scores_are_read_to_the_last_digit(tmp_path_factory, scores, lower) -> None:
    folder = tmp_path_factory.mktemp("s")
    rows = [{"s": score, "p": f"p{i}"} for i, score in enumerate(scores)]
    columns = ScoreColumns("s", group="p", lower_is_harmful=lower)
    for name in ("s.csv", "s.parquet"):
        found = read_score_columns([write(folder / name, rows)], columns).floats("mixed_max")
        assert (columns.sign * found == np.array(scores)).all()


FAULTS = [
    ("risk", 1, "high", "column risk, row 2: expected a number, found other text"),
    ("risk", 2, "", "column risk, row 3: expected a number, found none"),
    ("risk", 0, "nan", "column risk, row 1: expected a finite number"),
    ("risk", 0, "inf", "column risk, row 1: expected a finite number"),
    ("ask", 2, "", "column ask, row 3: expected a value, found none"),
    ("name", 2, "a", "column name, row 3: the id of row 1 of"),
    ("bad", 1, "perhaps", "column bad, row 2: expected 1"),
    ("bad", 1, "2", "column bad, row 2: expected 1"),
    ("size", 1, "-1", "column size, row 2: expected 0 or more"),
    ("turns", 0, "two", "column turns, row 1: expected a number"),
]


@pytest.mark.parametrize(("column", "row", "value", "message"), FAULTS)
@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_a_bad_cell_is_named_and_not_repeated(tmp_path, name, column, row, value, message) -> None:
    rows = [{key: str(cell) for key, cell in row.items()} for row in ROWS]
    rows[row][column] = value
    path = write(tmp_path / name, rows)
    with pytest.raises(ExchangeError) as error:
        read_score_columns([path], ALL)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "perhaps" not in str(error.value)
    assert "high" not in str(error.value)


def test_rows_are_counted_over_parts_of_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lockgate.traffic._score_columns._ROWS", 7)
    monkeypatch.setattr("lockgate.traffic._score_columns._BLOCK_BYTES", 256)
    rows = [{"s": "0.5", "p": f"prompt {i}"} for i in range(100)]
    columns = ScoreColumns("s", prompt="p")
    for name in ("s.csv", "s.parquet"):
        assert len(read_score_columns([write(tmp_path / name, rows)], columns)) == 100
        bad = [*rows[:93], {"s": "x", "p": "q"}, *rows[94:]]
        with pytest.raises(ExchangeError, match="column s, row 94"):
            read_score_columns([write(tmp_path / f"bad-{name}", bad)], columns)


def test_a_missing_column_lists_those_there_but_no_text(tmp_path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("risk,how do I open the third lock gate by hand\n1,2\n")
    with pytest.raises(ExchangeError) as error:
        read_score_columns([path], ScoreColumns("score", group="risk"))
    assert str(error.value) == f"{path}: no column score; the file has `risk`, one whose name isn't plain"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("s,p\n1,a\n2,b,secret\n", "row 2: expected 2 columns, found 3"),
        ("", "cannot be read"),
        ("s,p\n", "no row"),
        ("s,p\n1,a\n2,a\n", "column p: all 2 rows have one prompt"),
        ("s,s,p\n1,2,a\n", "two columns are called s"),
        (b"s,p\n1,\xff\xfe\n", "cannot be read"),
    ],
)
def test_a_broken_table_is_one_error(tmp_path, content, message) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ExchangeError, CalibrationError), match=message) as error:
        read_score_columns([path], ScoreColumns("s", group="p"))
    assert str(path) in str(error.value)
    assert "secret" not in str(error.value)


def test_files_of_other_kinds_are_refused(tmp_path) -> None:
    columns = ScoreColumns("s", group="p")
    (tmp_path / "s.xlsx").touch()
    (tmp_path / "s.parquet").write_text("s,p\n")
    for name, message in (("s.xlsx", "unknown kind"), ("s.parquet", "cannot be read"), ("no.csv", "no such")):
        with pytest.raises(ExchangeError, match=message):
            read_score_columns([tmp_path / name], columns)
    nested = pa.table({"s": [[1.0]], "p": ["a"]})
    pq.write_table(nested, tmp_path / "n.parquet")
    with pytest.raises(ExchangeError, match="column s: expected numbers"):
        read_score_columns([tmp_path / "n.parquet"], columns)


def test_columns_that_can_not_be_read_together(tmp_path) -> None:
    for given_ in ({}, {"prompt": "p", "group": "g"}):
        with pytest.raises(ConfigError, match="prompt: name the column"):
            ScoreColumns("s", **given_)
    with pytest.raises(ConfigError, match="score: the column has another meaning"):
        ScoreColumns("s", group="s")
    (tmp_path / "a").mkdir()
    files = [write(tmp_path / name, ROWS) for name in ("s.csv", "a/s.csv")]
    with pytest.raises(ConfigError, match="two files are called"):
        read_score_columns(files, ScoreColumns("risk", group="ask"))
    with pytest.raises(ExchangeError, match="column name, row 1: the id of row 1 of"):
        read_score_columns(files, ALL)
