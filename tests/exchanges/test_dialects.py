"""Files as other programs write them have one meaning, or an error says what is wrong."""

import datetime
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lockgate.constitution import DataMapping
from lockgate.errors import ExchangeError
from lockgate.exchanges import exchange_from_dict, read_exchanges
from lockgate.exchanges.importing import DataImport
from lockgate.gateway._errors import ApiError
from lockgate.gateway._messages import parse_messages

TURNS = [{"role": "user", "content": "What turns the mill?"}, {"role": "assistant", "content": "The river."}]
LINE = json.dumps({"messages": TURNS, "label": 0}).encode() + b"\n"


def imported(path, **mapping):
    return list(DataImport(path, DataMapping(**mapping)))


# One reading of content for the server, for files of exchanges and for imports.

PART = st.one_of(
    st.text(max_size=5),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "input_text", "output_text"]), "text": st.text(max_size=5)}
    ),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": st.text(max_size=5)}),
    st.fixed_dictionaries({"type": st.sampled_from(["image_url", "text"])}),
    st.none() | st.integers(),
)


@given(
    role=st.sampled_from(["user", "assistant", "system"]),
    content=st.one_of(st.text(max_size=5), st.lists(PART, max_size=3), st.none(), st.integers()),
    refusal=st.none() | st.text(max_size=3),
)
def test_server_files_and_imports_read_one_content(role, content, refusal, tmp_path_factory) -> None:
    message = {"role": role, "content": content, "refusal": refusal}
    read = []
    for reader in (
        lambda: parse_messages([message])[0].content,
        lambda: exchange_from_dict({"messages": [message]}).messages[0].content,
        lambda: turns_of(message),
    ):
        try:
            read.append(reader())
        except (ApiError, ExchangeError):
            read.append(None)
    # The server passes over a refusal beside content, as it does over fields of newer clients.
    if refusal and content is not None:
        assert read[1] is None
        assert read[2] is None
    else:
        assert read[0] == read[1] == read[2]


def turns_of(message) -> str:
    from lockgate.exchanges.importing._turns import TurnReader

    return TurnReader({}, frozenset()).read([message], "messages")[0].content


def test_parts_have_nothing_between_them() -> None:
    parts = [{"type": "text", "text": "What turns"}, {"type": "text", "text": " the mill?"}]
    assert parse_messages([{"role": "user", "content": parts}])[0].content == "What turns the mill?"


UNUSED = {
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": None,
    "reasoning_content": "",
    "extra": {},
}


def test_an_sdks_dump_of_a_message_is_read_everywhere(tmp_path) -> None:
    dumped = [TURNS[0], {**TURNS[1], **UNUSED}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": dumped, "label": 0}) + "\n")
    plain = exchange_from_dict({"messages": TURNS})
    assert [row.id for row in read_exchanges(path)] == [plain.id]
    assert [row.id for row in imported(path)] == [plain.id]
    assert [message.to_dict() for message in parse_messages(dumped)] == TURNS


def test_a_key_with_something_under_it_is_named() -> None:
    held = [TURNS[0], {**TURNS[1], "annotations": [{"title": "private"}]}]
    with pytest.raises(ExchangeError, match=r"messages\[1\]: 1 unknown key\(s\) \(annotations\)") as caught:
        exchange_from_dict({"messages": held})
    assert "private" not in str(caught.value)
    with pytest.raises(ExchangeError, match="1 unknown key") as caught:
        exchange_from_dict({"messages": [{**TURNS[0], "secret": 1}]})
    assert "secret" not in str(caught.value)


# Dialogues.


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_dialogues_end_lines_in_any_way(tmp_path, ending) -> None:
    text = "\n\nHuman: How?\n\nAssistant: So.\n\nThat is: so.\n\nHuman: Why?\n\nAssistant: {}"
    sides = {name: text.replace("{}", name).replace("\n", ending) for name in ("chosen", "rejected")}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(sides) + "\n")
    rows = imported(path)
    assert [[message.role for message in row.messages] for row in rows] == [["user", "assistant"] * 2] * 2
    assert rows[1].messages[1].content.splitlines() == ["So.", "", "That is: so."]


# Compression and encodings.


@pytest.mark.parametrize("window", [27, 28, 31])
def test_zstd_with_a_long_window_is_read(tmp_path, window) -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    frame = bytearray(stream.compress(LINE * 3) + stream.flush())
    # The sixth byte says how long the window is, in powers of two from 2**10.
    frame[5] = (window - 10) << 3
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(frame)
    assert len(list(read_exchanges(path))) == 3
    assert len(imported(path)) == 3
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ExchangeError, match="damaged or cut short"):
        list(read_exchanges(path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.json"])
def test_wide_encodings_are_named(tmp_path, encoding, name) -> None:
    text = "prompt,response\nwhy,so\n" if name.endswith("csv") else LINE.decode()
    text = f"[{text}]" if name.endswith("json") else text
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    readers = [lambda: imported(path)]
    if "jsonl" in name:
        readers += [lambda: list(read_exchanges(path)), lambda: list(read_exchanges(path, skip_invalid=True))]
    for read in readers:
        with pytest.raises(ExchangeError, match=f"the file is {encoding[:6].upper()}; save it as UTF-8"):
            read()


@given(st.binary(max_size=6))
def test_other_bytes_are_no_wide_encoding(tmp_path_factory, data) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(LINE + data.replace(b"\0", b" "))
    try:
        list(read_exchanges(path, skip_invalid=True))
    except ExchangeError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet", "a.csv", "a.arrow"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ExchangeError, match=f"{name}: a Git LFS pointer"):
        imported(path)
    if "jsonl" in name or "parquet" in name:
        with pytest.raises(ExchangeError, match=f"{name}: a Git LFS pointer"):
            list(read_exchanges(path, skip_invalid=True))


# Columns.


def table(path, **columns) -> None:
    pq.write_table(pa.table({"messages": [TURNS], "label": [0.0], **columns}), path)


MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        (pa.array([MOMENT]), "2024-05-06T07:08:09+00:00"),
        (pa.array([MOMENT.date()]), "2024-05-06"),
        (pa.array([MOMENT.time()]), "07:08:09"),
        (pa.array([np.datetime64("2024-05-06T07:08:09.123456789")]), "2024-05-06 07:08:09.123456789"),
        (pa.array([{"at": MOMENT, "n": [1]}]), {"at": "2024-05-06T07:08:09+00:00", "n": [1]}),
    ],
)
def test_moments_in_columns_are_text_in_meta(tmp_path, column, kept) -> None:
    path = tmp_path / "a.parquet"
    table(path, moment=column)
    assert next(read_exchanges(path)).meta == {"moment": kept}
    assert imported(path, shape="exchange")[0].meta == {"moment": kept}


@pytest.mark.parametrize("column", [pa.array([b"\xff\x00"]), pa.array([float("nan")])])
def test_a_column_that_json_cannot_hold_is_named(tmp_path, column) -> None:
    path = tmp_path / "a.parquet"
    table(path, embedding=column)
    with pytest.raises(ExchangeError, match=r"a.parquet:1: embedding: "):
        list(read_exchanges(path))
    with pytest.raises(ExchangeError, match=r"nothing to import.*embedding: "):
        imported(path, shape="exchange")


# One JSON document around the rows.

ROWS = [{"prompt": f"p{number}", "response": "r"} for number in range(300)]


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_within_a_document_are_found_by_their_path(tmp_path, indent) -> None:
    path = tmp_path / "a.json"
    document = {
        "version": 2,
        "about": {"items": [1]},
        "data": {"n": None, "items": ROWS},
        "end": "x" * 70_000,
    }
    path.write_text(json.dumps(document, indent=indent))
    assert [row.messages[0].content for row in imported(path, rows="data.items")] == [
        r["prompt"] for r in ROWS
    ]
    for wrong, said in (
        ("data.rows", "data.rows: no such key"),
        ("data.n", "expected a list"),
        ("end.a", "expected an object that holds this key"),
    ):
        with pytest.raises(ExchangeError, match=f"rows: .*{said}"):
            imported(path, rows=wrong)
    path.write_text(path.read_text()[: len(json.dumps(ROWS)) // 2])
    with pytest.raises(ExchangeError, match="cut short"):
        imported(path, rows="data.items")


def test_a_document_over_several_lines_asks_for_the_path(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": ROWS}, indent=1))
    with pytest.raises(ExchangeError, match="`rows: data`"):
        imported(path)


def test_a_path_is_for_documents_alone(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE)
    with pytest.raises(ExchangeError, match="rows: a path is for one JSON document"):
        imported(path, rows="data")
