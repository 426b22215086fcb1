"""Readers that stream JSONL (plain, gzip, zstd) and Parquet."""

import datetime
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import shown_name
from lockgate.exchanges._files import MAX_LINE_BYTES, read_lines, refuse_pointer, suffix_of
from lockgate.exchanges._record import RECORD_KEYS, Exchange, exchange_from_dict

_PARQUET_BATCH_ROWS = 256
_KEPT_ERRORS = 5


class InvalidCounter:
    """An `on_invalid` callback that counts bad records and keeps the first few messages.

    Attributes:
        count: number of bad records so far.
        first: messages of the first five.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def __call__(self, error: ExchangeError) -> None:
        self.count += 1
        if len(self.first) < _KEPT_ERRORS:
            self.first.append(str(error))


def read_exchanges(
    path: str | os.PathLike[str],
    *,
    skip_invalid: bool = False,
    on_invalid: Callable[[ExchangeError], None] | None = None,
) -> Iterator[Exchange]:
    """Read exchanges one by one. Memory does not grow with the file.

    Args:
        path: a file ending in .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
        skip_invalid: leave bad records out. By default the first one stops the reading.
        on_invalid: called with the error of each record that is left out; see `InvalidCounter`.

    Raises:
        ExchangeError: a record is bad: `FILE:LINE: FIELD: ...` (Parquet: the row, from 1). A file that is
            missing, of an unknown kind, damaged or cut short is an error even with `skip_invalid`.
    """
    file = Path(path)
    suffix = suffix_of(file)
    if not file.is_file():
        raise ExchangeError(f"{file}: no such file")
    refuse_pointer(file)
    records = _parquet_records(file) if suffix == ".parquet" else json_records(file)
    return _checked(file, records, skip_invalid, on_invalid)


# The number of a record and a function that decodes it. So one bad record does not end the stream.
Record = tuple[int, Callable[[], object]]


def _checked(
    file: Path,
    records: Iterator[Record],
    skip_invalid: bool,
    on_invalid: Callable[[ExchangeError], None] | None,
) -> Iterator[Exchange]:
    for number, decode in records:
        try:
            exchange = exchange_from_dict(decode())
        except ExchangeError as error:
            located = ExchangeError(f"{file}:{number}: {error}")
            if not skip_invalid:
                raise located from None
            if on_invalid is not None:
                on_invalid(located)
            continue
        yield exchange


def json_records(file: Path) -> Iterator[Record]:
    """Yield the number of each line of JSON, and a function that decodes it. Empty lines are left out."""
    for line in read_lines(file):
        data = line.data
        if data is not None and line.number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if data is None or data.strip():
            yield line.number, partial(decode_line, data)


def decode_line(data: bytes | None) -> object:
    """Decode one line of JSON. None is a line over the limit.

    Raises:
        ExchangeError: the line is too long, not valid UTF-8 or not valid JSON.
    """
    if data is None:
        raise ExchangeError(f"record: the line is longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ExchangeError(f"record: not valid UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ExchangeError(f"record: not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise ExchangeError("record: the JSON is nested too deep") from None
    except ValueError as error:
        raise ExchangeError(f"record: not usable JSON: {error}") from None


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's decoder accepts. Raises ValueError."""
    raise ValueError(f"{name} is not a JSON number")


def _parquet_records(file: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, partial(_decode_row, batch.slice(index, 1))
    except (pa.ArrowException, OSError) as error:
        raise ExchangeError(f"{file}: not a readable Parquet file ({type(error).__name__})") from error


def _decode_row(row: pa.RecordBatch) -> object:
    return unpack_columns({name: read_column(row, name) for name in row.schema.names})


def read_column(row: pa.RecordBatch, name: str, index: int = 0) -> Any:  # noqa: ANN401
    """Return a cell of a batch as a JSON value. Dates, times and decimal numbers become text.

    Raises:
        ExchangeError: the cell holds a value that JSON can't carry. The message starts with the column.
    """
    place = row.schema.names.index(name)
    kind = row.schema.field(place).type
    cells = row.column(place).slice(index, 1)
    try:
        # Python's times have no nanoseconds, so the library turns such a column into text.
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            cells = cells.cast(pa.string())
        return _json_column(cells[0].as_py(), name)
    except UnicodeDecodeError:
        raise ExchangeError(f"record: the column {shown_name(name)} holds bytes that are not UTF-8") from None
    except (ValueError, OverflowError, pa.ArrowException, ImportError):
        raise _not_kept(name) from None


def _json_column(value: object, name: str) -> object:
    value = _plain_value(value, name)
    if name not in RECORD_KEYS:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise _not_kept(name) from None
    return value


def _not_kept(name: str) -> ExchangeError:
    field = name if shown_name(name).startswith("`") else "a column whose name isn't plain"
    return ExchangeError(f"{field}: holds a value that `meta` can't keep; leave that column out")


def _plain_value(value: object, name: str) -> object:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes | bytearray):
        raise _not_kept(name)
    if isinstance(value, dict):
        return {key: _plain_value(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item, name) for item in value]
    return value


def unpack_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Make a record of Parquet or Arrow columns. Decode `meta` and tool calls where they are JSON text.

    Raises:
        ExchangeError: the text is not JSON. The message starts with the field.
    """
    # Rows of imported data sets don't come from `read_column` and may hold dates.
    record = {key: _json_column(value, key) for key, value in record.items() if value is not None}
    record["meta"] = _from_json_text(record.get("meta"), "meta")
    messages = record.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("tool_calls") is not None:
                where = f"messages[{index}].tool_calls"
                message["tool_calls"] = _from_json_text(message["tool_calls"], where)
    return record


def _from_json_text(value: object, where: str) -> object:
    """Decode a column that is kept as JSON text. A struct that another program wrote stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise ExchangeError(f"{where}: expected JSON text") from None
