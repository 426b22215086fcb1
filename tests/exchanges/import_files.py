"""Files of rows to import, and the exchanges expected from them."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.constitution import DataMapping
from lockgate.exchanges import Exchange, Message
from lockgate.exchanges.importing import DataImport


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def imported(path: Path, **mapping) -> list[Exchange]:
    return list(DataImport(path, DataMapping.model_validate(mapping)))


def turns(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    first = () if system is None else (Message("system", system),)
    return first + tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))


def write_table(path: Path, columns: dict[str, list]) -> Path:
    """The same columns as a file of the kind that the name says; lists become JSON text in CSV."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    kind = path.suffix
    if kind == ".jsonl":
        return write_rows(path, rows)
    if kind == ".json":
        path.write_text(json.dumps(rows, indent=1), "utf-8")
    elif kind == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in rows:
                writer.writerow(
                    [cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()]
                )
    elif kind == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        table = pa.table(columns)
        with path.open("wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return path
