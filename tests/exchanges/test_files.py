import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError
from lockgate.exchanges import (
    Exchange,
    InvalidCounter,
    Message,
    read_exchanges,
    write_exchanges,
)
from lockgate.exchanges._files import Line, _split, read_lines

SUFFIXES = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]


def exchanges(count: int) -> list[Exchange]:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    return [
        Exchange(
            (
                Message("user", f"question {n} \u2028 \U0001f600", name="ann" if n % 2 else None),
                Message("assistant", f"answer {n}", tool_calls=(call,) if n % 3 == 0 else None),
            ),
            label=None if n % 4 == 0 else n / count,
            category="c" if n % 2 else None,
            source="made",
            meta={"n": n, "deep": {"list": [n]}} if n % 5 else {},
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_give_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows = exchanges(1500)
    assert write_exchanges(path, iter(rows)) == 1500
    assert list(read_exchanges(path)) == rows
    first = path.read_bytes()
    write_exchanges(path, rows)
    assert path.read_bytes() == first
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_holds_no_exchange(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert write_exchanges(path, []) == 0
    assert list(read_exchanges(path)) == []


def test_a_bad_line_names_file_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    good = json.dumps(exchanges(1)[0].to_dict()).encode()
    bad = [
        b'{"messages": [{"role": "nobody", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [], "label": 1}',
        b'{"messages": ',
        b'{"messages": [{"role": "user", "content": "x"}], "label": NaN}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b"[" * 100_000,
        b'{"label": ' + b"1" * 5000 + b"}",
        b"null",
    ]
    fields = ["messages[0].role", "messages[0].content", "messages"] + ["record"] * 6
    path.write_bytes(gzip.compress(b"\n".join([good, b"", *bad, b" \r", good])))
    invalid = InvalidCounter()
    assert len(list(read_exchanges(path, skip_invalid=True, on_invalid=invalid))) == 2
    assert invalid.count == len(bad)
    assert len(invalid.first) == 5
    messages: list[str] = []
    list(read_exchanges(path, skip_invalid=True, on_invalid=lambda error: messages.append(str(error))))
    for number, (message, field) in enumerate(zip(messages, fields, strict=True), 3):
        assert message.startswith(f"{path}:{number}: {field}: ")
    stream = read_exchanges(path)
    next(stream)
    with pytest.raises(ExchangeError, match=r"data.jsonl.gz:3: messages\[0\].role: "):
        next(stream)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(exchanges(1)[0].to_dict()).encode() + b"\r\n")
    assert list(read_exchanges(path)) == exchanges(1)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("cut", [1, 9])
def test_a_cut_file_is_an_error_even_when_skipping(tmp_path: Path, suffix: str, cut: int) -> None:
    path = tmp_path / f"a{suffix}"
    write_exchanges(path, exchanges(50))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ExchangeError, match=f"a{suffix}"):
        list(read_exchanges(path, skip_invalid=True))


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_foreign_bytes_are_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"this is none of the three kinds")
    with pytest.raises(ExchangeError, match=r"damaged|readable"):
        list(read_exchanges(path))


def test_missing_files_and_unknown_kinds_fail_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="no such file"):
        read_exchanges(tmp_path / "a.jsonl")
    with pytest.raises(ExchangeError, match="must end in"):
        read_exchanges(tmp_path / "a.csv")
    with pytest.raises(ExchangeError, match="must end in"):
        write_exchanges(tmp_path / "a.txt", [])
    with pytest.raises(ExchangeError, match="does not exist"):
        write_exchanges(tmp_path / "no" / "a.jsonl", [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_exchanges(path, exchanges(3))
    before = path.read_bytes()

    def broken() -> Iterator[Exchange]:
        yield from exchanges(3)
        yield Exchange((Message("user", "\ud800"),))

    with pytest.raises(ExchangeError, match=r":4: .*nothing was written"):
        write_exchanges(path, broken())
    with pytest.raises(ExchangeError, match=":1: messages: "):
        write_exchanges(path, [Exchange(())])
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_open_atomic_leaves_nothing_behind(tmp_path: Path) -> None:
    def stopped() -> None:
        with open_atomic(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_parquet_of_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row = {"messages": [{"role": "user", "content": "a"}], "label": 1, "meta": {"k": 2}, "family": "f"}
    bad = {"messages": [{"role": "user", "content": None}], "label": 0, "meta": None, "family": None}
    pq.write_table(pa.Table.from_pylist([row, bad]), path)
    invalid = InvalidCounter()
    (exchange,) = read_exchanges(path, skip_invalid=True, on_invalid=invalid)
    assert exchange == Exchange((Message("user", "a"),), label=1.0, meta={"k": 2, "family": "f"})
    assert invalid.first[0].startswith(f"{path}:2: messages[0].content: ")


@given(st.lists(st.binary(max_size=12)), st.integers(1, 9), st.integers(0, 12))
def test_lines_do_not_depend_on_the_chunks(lines: list[bytes], width: int, limit: int) -> None:
    data = b"\n".join(lines)
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    chunks = [data[start : start + width] for start in range(0, len(data), width)]
    assert list(_split(chunks, limit)) == [
        Line(number, line if len(line) <= limit else None) for number, line in enumerate(expected, 1)
    ]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_packed_endless_line_stays_within_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    with path.open("wb") as file:
        packed = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) if suffix == "gz" else None
        stream = packed or zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False)
        with stream:
            for _ in range(256):
                stream.write(b"a" * 2**20)
            stream.write(b"\nlast")
    tracemalloc.start()
    assert list(read_lines(path, max_bytes=2**20)) == [Line(1, None), Line(2, b"last")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
