"""Rows of one file as mappings from column to value, decoded one by one: a bad row doesn't end the stream."""

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import json_type
from lockgate.exchanges._files import MAX_LINE_BYTES, read_chunks, read_lines, refuse_pointer
from lockgate.exchanges._read import json_records
from lockgate.exchanges.importing._array import array_items
from lockgate.exchanges.importing._arrow import arrow_rows, ipc_batches, parquet_batches
from lockgate.exchanges.importing._faults import RowFault
from lockgate.exchanges.importing._source import DataFile

Row = Mapping[str, Any]
# The row's number in the file, from 1 (text files: its first line), and a function that decodes it or raises
# RowFault.
RowRecord = tuple[int, Callable[[], Row]]


def read_rows(file: DataFile, rows: str | None = None) -> Iterator[RowRecord]:
    """Return the rows in file order. Memory does not grow with the file.

    Args:
        file: the file.
        rows: keys that lead to the list of rows in one JSON document, with dots between them.

    Raises:
        ExchangeError: the file is damaged, cut short or of another kind.
    """
    refuse_pointer(file.path)
    if rows is not None:
        if file.kind != "json":
            raise ExchangeError(f"{file.path}: rows: a path is for one JSON document, found {file.kind}")
        return ((number, partial(_object, item)) for number, item in array_items(file.path, rows=rows))
    if file.kind == "csv":
        return _csv_rows(file.path)
    if file.kind == "parquet":
        return arrow_rows(file.path, parquet_batches)
    if file.kind == "arrow":
        return arrow_rows(file.path, ipc_batches)
    if file.kind == "json":
        if _is_array(file.path):
            return ((number, partial(_object, item)) for number, item in array_items(file.path))
        _refuse_document(file.path)
    return ((number, partial(_json_row, decode)) for number, decode in json_records(file.path))


def _json_row(decode: Callable[[], object]) -> Row:
    try:
        value = decode()
    except ExchangeError as error:
        field, _, message = str(error).partition(": ")
        raise RowFault("malformed", field, message) from None
    return _object(value)


def _object(value: object) -> Row:
    if not isinstance(value, Mapping):
        raise RowFault("malformed", "record", f"expected an object with columns, found {json_type(value)}")
    return value


def _is_array(path: Path) -> bool:
    for chunk in read_chunks(path):
        if text := chunk.removeprefix(codecs.BOM_UTF8).lstrip():
            return text.startswith(b"[")
    return False


def _refuse_document(path: Path) -> None:
    """Refuse one object over many lines: its lines are not rows."""
    first = next((line.data for line in read_lines(path) if line.data is None or line.data.strip()), None)
    if first is not None and first.removeprefix(codecs.BOM_UTF8).strip() == b"{":
        raise ExchangeError(
            f"{path}: one JSON object over several lines; say where in it the list of rows is, as in "
            "`rows: data` in the mapping"
        )


def _csv_rows(path: Path) -> Iterator[RowRecord]:
    # The csv module has one limit for the process. It is that of a JSON line while rows are read.
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        reader = csv.reader(
            _csv_lines(path), delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True
        )
        header = _next_cells(reader, path)
        if isinstance(header, RowFault):
            raise ExchangeError(f"{path}:1: header: {header}")
        if header is None:
            return
        repeated = {name for name in header if header.count(name) > 1}
        if repeated:
            raise ExchangeError(f"{path}:1: header: a column appears twice; rename one of the two")
        while True:
            number = reader.line_num + 1
            cells = _next_cells(reader, path)
            if cells is None:
                return
            if cells != []:
                yield number, partial(_csv_row, header, cells)
    finally:
        csv.field_size_limit(before)


def _csv_lines(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if line.data is None:
            raise ExchangeError(f"{path}:{line.number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB")
        data = line.data.removeprefix(codecs.BOM_UTF8) if line.number == 1 else line.data
        yield data.decode("utf-8", errors="surrogateescape") + "\n"


def _next_cells(reader: Any, path: Path) -> list[str] | RowFault | None:  # noqa: ANN401
    try:
        cells: list[str] | None = next(reader, None)
    except csv.Error as error:
        if "unexpected end of data" in str(error) or "field larger" in str(error):
            raise ExchangeError(
                f"{path}:{reader.line_num}: a quoted cell has no end; the file is cut short or a quote is "
                "wrong"
            ) from None
        return RowFault("malformed", "row", f"not valid CSV: {error}")
    return cells


def _csv_row(header: list[str], cells: list[str] | RowFault) -> Row:
    if isinstance(cells, RowFault):
        raise cells
    if len(cells) != len(header):
        raise RowFault(
            "malformed", "row", f"expected {len(header)} cells as in the header, found {len(cells)}"
        )
    return dict(zip(header, cells, strict=True))
