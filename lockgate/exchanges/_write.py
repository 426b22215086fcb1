"""Writers of whole files: a reader sees the old file or all of the new one."""

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError
from lockgate.exchanges._files import suffix_of
from lockgate.exchanges._record import Exchange

_ROW_GROUP_ROWS = 1024

_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("name", pa.string()),
        ("tool_calls", pa.string()),
        ("tool_call_id", pa.string()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("messages", pa.list_(_MESSAGE)),
        ("label", pa.float64()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("meta", pa.string()),
    ]
)


def write_exchanges(path: str | os.PathLike[str], exchanges: Iterable[Exchange]) -> int:
    """Write exchanges and return their number. The ending of the name decides the format.

    The file appears when all of it is written. Equal input gives equal bytes: gzip headers hold no time.
    Parquet keeps `meta` and tool calls as JSON text, since their shapes differ from row to row.

    Args:
        path: a file ending in .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
        exchanges: the exchanges, read once.

    Raises:
        ExchangeError: the ending is unknown, the folder is missing, or a record is not valid Unicode or JSON.
    """
    target = Path(path)
    suffix = suffix_of(target)
    with open_atomic(target) as file:
        if suffix == ".parquet":
            return _write_parquet(file, exchanges, target)
        with _packed(file, suffix) as write:
            count = 0
            for count, record in enumerate(_records(exchanges, target), 1):
                write(_to_json(record, target, count) + b"\n")
            return count


def _records(exchanges: Iterable[Exchange], target: Path) -> Iterator[dict[str, Any]]:
    for number, exchange in enumerate(exchanges, 1):
        if not exchange.messages:
            raise ExchangeError(f"{target}:{number}: messages: the list is empty; nothing was written")
        yield exchange.to_dict()


@contextmanager
def _packed(file: BinaryIO, suffix: str) -> Iterator[Callable[[bytes], object]]:
    if suffix.endswith(".gz"):
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
            yield packed.write
    elif suffix.endswith(".zst"):
        compressor = zstandard.ZstdCompressor(level=6, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as stream:
            yield stream.write
    else:
        yield file.write


def _to_json(value: object, target: Path, number: int) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ExchangeError(
            f"{target}:{number}: a value is not valid Unicode or JSON ({type(error).__name__}); "
            "nothing was written"
        ) from None


def _write_parquet(file: BinaryIO, exchanges: Iterable[Exchange], target: Path) -> int:
    count = 0
    records = _records(exchanges, target)
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        while group := list(islice(records, _ROW_GROUP_ROWS)):
            rows = [_flat(record, target, count + index) for index, record in enumerate(group, 1)]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
            count += len(group)
    return count


def _flat(record: dict[str, Any], target: Path, number: int) -> dict[str, Any]:
    _to_json(record, target, number)
    messages = [
        {**message, "tool_calls": _to_json(message["tool_calls"], target, number).decode()}
        if "tool_calls" in message
        else message
        for message in record["messages"]
    ]
    meta = _to_json(record["meta"], target, number).decode() if "meta" in record else None
    return {**record, "messages": messages, "meta": meta}
