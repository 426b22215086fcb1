"""Kinds of files with rows: round trips, packed, cut and malformed ones, and bounded memory."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from import_files import imported, turns, write_rows, write_table

from lockgate.errors import ExchangeError
from lockgate.exchanges import Message
from lockgate.exchanges.importing import DataImport, inspect_data
from lockgate.exchanges.importing._array import array_items

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5)


def dialogue(messages: tuple[Message, ...]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message.role]}: {message.content}" for message in messages)


@given(st.lists(PAIRS, min_size=1, max_size=4), st.sampled_from(["jsonl", "json", "parquet", "csv", "arrow"]))
def test_round_trips_through_every_shape_and_kind(tmp_path_factory, conversations, kind) -> None:
    folder = tmp_path_factory.mktemp("import")
    wanted = [turns(*[text for pair in pairs for text in pair]) for pairs in conversations]
    openai = [[message.to_dict() for message in messages] for messages in wanted]
    shares = [
        [{"from": "human" if m.role == "user" else "gpt", "value": m.content} for m in messages]
        for messages in wanted
    ]
    path = write_table(folder / f"a.{kind}", {"messages": openai})
    assert [row.messages for row in imported(path)] == wanted
    path = write_table(folder / f"b.{kind}", {"conversations": shares})
    assert [row.messages for row in imported(path)] == wanted
    first = [messages[:2] for messages in wanted]
    sides = {"prompt": [m[0].content for m in first], "response": [m[1].content for m in first]}
    assert [row.messages for row in imported(write_table(folder / f"c.{kind}", sides))] == first


@given(PAIRS)
def test_dialogues_in_one_text_round_trip(tmp_path_factory, pairs) -> None:
    wanted = turns(*[text.strip() for pair in pairs for text in pair])
    other = (*wanted[:-1], Message("assistant", wanted[-1].content + "!"))
    path = tmp_path_factory.mktemp("import") / "set.jsonl"
    write_rows(path, [{"chosen": dialogue(wanted), "rejected": dialogue(other)}])
    assert [row.messages for row in imported(path)] == [wanted, other]


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n} " + "x" * 1000, "response": "y" * 1000} for n in range(6000)]
    for path in (tmp_path / "a.jsonl", tmp_path / "a.json", tmp_path / "a.csv"):
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        write_table(path, columns)
        inspect_data(path, limit=10)
        tracemalloc.start()
        try:
            assert inspect_data(path).imported == len(rows)
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_files_and_cut_ones(tmp_path: Path, pack) -> None:
    ending = "gz" if pack is gzip.compress else "zst"
    plain = write_table(
        tmp_path / "a.csv", {"prompt": ["a\nb", "c"], "response": ['x "y"', "z"]}
    ).read_bytes()
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(pack(plain))
    assert [row.messages for row in imported(path)] == [turns("a\nb", 'x "y"'), turns("c", "z")]
    path.write_bytes(pack(plain)[:-3])
    with pytest.raises(ExchangeError, match="damaged or cut short"):
        imported(path)


def test_csv_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,response\na,b\nc\n"d"x,e\n\nf,g\n')
    data = DataImport(path)
    assert [row.messages for row in data] == [turns("a", "b"), turns("f", "g")]
    assert data.report.rejected == {"malformed": 2}
    assert "a.csv:3: row: expected 2 cells as in the header, found 1" in data.report.first[0]
    assert "a.csv:4: row: not valid CSV" in data.report.first[1]
    path.write_text('prompt,response\na,b\n"c,d\n')
    with pytest.raises(ExchangeError, match="a quoted cell has no end"):
        imported(path)
    path.write_text("prompt,prompt\na,b\n")
    with pytest.raises(ExchangeError, match="a column appears twice"):
        imported(path)
    path.with_suffix(".tsv").write_bytes(b"prompt\tresponse\r\na, b\tc\xff\r\nd\te\r\n")
    data = DataImport(path.with_suffix(".tsv"))
    assert [row.messages for row in data] == [turns("d", "e")]
    assert data.report.rejected == {"malformed": 1}


@pytest.mark.parametrize(
    "text", ["", "[", "[1", '[{"a": 1}', '[{"a": 1},', '[{"a": 1} {"a": 2}]', "[nul]", "[NaN]"]
)
def test_arrays_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ExchangeError):
        imported(path, shape="prompt", columns={"prompt": "a"})


@given(
    st.lists(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
)
def test_arrays_are_read_item_by_item(tmp_path_factory, items) -> None:
    path = tmp_path_factory.mktemp("import") / "a.json"
    path.write_text(" \n" + json.dumps(items), "utf-8")
    assert list(array_items(path)) == list(enumerate(items, 1))


def test_a_long_item_is_refused_before_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["x" * 100_000, "y" * 4_000_000]))
    items = array_items(path, max_size=500_000)
    assert len(next(items)[1]) == 100_000
    with pytest.raises(ExchangeError, match=r"a\.json:2: record: not valid JSON, cut short, or longer than"):
        next(items)
