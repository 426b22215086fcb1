"""Rows of Parquet and Arrow files."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lockgate.errors import ExchangeError
from lockgate.exchanges.importing._faults import RowFault

_BATCH_ROWS = 256
# A closed stream ends with these bytes. Without this check, a stream cut between two batches looks whole.
_STREAM_START = b"\xff\xff\xff\xff"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class ArrowRow(Mapping[str, Any]):
    """One row of a batch. A cell is decoded when it is read, so a column that nobody reads can't fail."""

    def __init__(self, batch: pa.RecordBatch, index: int, names: Mapping[str, list[str]]) -> None:
        self._batch, self._index, self._names = batch, index, names

    def __getitem__(self, column: str) -> Any:  # noqa: ANN401
        place = self._batch.schema.get_field_index(column)
        if place < 0:
            raise KeyError(column)
        try:
            cells = self._batch.column(place).slice(self._index, 1)
            kind = cells.type
            # Python's times have no nanoseconds, so the library turns such a column into text.
            nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns"
            value = (cells.cast(pa.string()) if nanoseconds else cells)[0].as_py()
        except UnicodeDecodeError:
            raise RowFault("malformed", column, "holds bytes that are not UTF-8") from None
        except (ValueError, OverflowError, pa.ArrowException, ImportError):
            raise RowFault("malformed", column, "holds a value that can't be read") from None
        if isinstance(value, float) and pa.types.is_float32(self._batch.schema.field(place).type):
            # Thresholds in a mapping are decimal numbers, so this gives 0.7 as written and not 0.699999988.
            value = float(str(np.float32(value)))
        names = self._names.get(column)
        if names is None or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None

    def __contains__(self, column: object) -> bool:
        return column in self._batch.schema.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch.schema.names)

    def __len__(self) -> int:
        return len(self._batch.schema.names)


def arrow_rows(
    path: Path, batches: Callable[[Path], Iterator[pa.RecordBatch]]
) -> Iterator[tuple[int, Callable[[], ArrowRow]]]:
    """Yield the number of each row, from 1, and a function that returns it.

    Args:
        path: the file.
        batches: `parquet_batches` or `ipc_batches`.

    Raises:
        ExchangeError: the file is damaged, cut short or of another kind.
    """
    try:
        number = 0
        names: Mapping[str, list[str]] | None = None
        for batch in batches(path):
            names = _class_names(batch.schema) if names is None else names
            for index in range(batch.num_rows):
                number += 1
                yield number, partial(ArrowRow, batch, index, names)
    except (pa.ArrowException, OSError) as error:
        raise ExchangeError(
            f"{path}: damaged, cut short or not of the kind that its name says ({type(error).__name__}); "
            "fetch or write it again"
        ) from error


def parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a Parquet file."""
    with pq.ParquetFile(path) as table:
        yield from table.iter_batches(batch_size=_BATCH_ROWS)


def ipc_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file, or of an Arrow stream as `datasets` writes it."""
    with pa.memory_map(str(path)) as file:
        head = file.read(6)
        file.seek(0)
        if head == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            return
        file.seek(max(0, file.size() - len(_STREAM_END)))
        if head.startswith(_STREAM_START) and file.read() != _STREAM_END:
            raise ExchangeError(
                f"{path}: the Arrow stream has no end; it is cut short, fetch or write it again"
            )
        file.seek(0)
        with pa.ipc.open_stream(file) as stream:
            yield from stream


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of each column with class numbers. `datasets` keeps them in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        return {}
