"""The scores table: one row for each exchange. Figures come from it, without running a model again."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError

SCORES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("category", pa.string()),
        pa.field("probe_max", pa.float64(), nullable=False),
        # Null if no token of the region was scored.
        pa.field("max_prompt", pa.float64()),
        pa.field("max_answer", pa.float64()),
        pa.field("classifier_max", pa.float64()),
        pa.field("mixed_max", pa.float64(), nullable=False),
        pa.field("flagged", pa.bool_(), nullable=False),
        pa.field("stage", pa.int64(), nullable=False),
        pa.field("flag_token", pa.int64()),
        pa.field("tokens_stage1", pa.int64(), nullable=False),
        pa.field("tokens_stage2", pa.int64(), nullable=False),
        pa.field("flops_stage1", pa.float64(), nullable=False),
        pa.field("flops_stage2", pa.float64(), nullable=False),
        pa.field("cpu_s_stage1", pa.float64(), nullable=False),
        pa.field("cpu_s_stage2", pa.float64(), nullable=False),
    ]
)


class ScoresTable:
    """A validated scores table: the columns of `SCORES_SCHEMA`, followed by any extra columns.

    Two extra columns have a meaning. `prompt_group` is equal for exchanges that share a prompt; without it,
    each id is its own group. `length` is the number of tokens; without it, `tokens_stage1` is used.

    Attributes:
        table: the Arrow table.
    """

    def __init__(self, table: pa.Table, origin: str = "scores table") -> None:
        """Check and order the columns.

        Args:
            table: Arrow table with at least the columns of `SCORES_SCHEMA`.
            origin: name of the table in error messages.

        Raises:
            ExchangeError: a column is missing or has wrong values. The message names `origin` and the column.
        """
        self.table = _conform(table, origin)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ScoresTable":
        """Read a Parquet file.

        Raises:
            ExchangeError: the file is missing or damaged, or lacks columns.
        """
        source = Path(path)
        try:
            table = pq.read_table(source)
        except (OSError, pa.ArrowException) as error:
            raise ExchangeError(
                f"{source}: cannot be read as Parquet ({type(error).__name__}); expected a scores table as "
                "`lockgate score` writes it"
            ) from None
        return cls(table, str(source))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "ScoresTable":
        """Build a table from one mapping for each row. The first row decides the extra columns."""
        content = list(rows)
        if not content:
            return cls(SCORES_SCHEMA.empty_table())
        names = [*SCORES_SCHEMA.names, *(name for name in content[0] if name not in SCORES_SCHEMA.names)]
        columns = {name: [row.get(name) for row in content] for name in names}
        return cls(pa.table(columns))

    @classmethod
    def concat(cls, tables: Sequence["ScoresTable"]) -> "ScoresTable":
        """Join tables, row after row. An extra column is kept if every table has it.

        Raises:
            ExchangeError: an extra column has types that cannot be combined.
        """
        names = [set(table.table.column_names) for table in tables]
        shared = [name for name in tables[0].table.column_names if all(name in own for own in names)]
        parts = [table.table.select(shared) for table in tables]
        try:
            return cls(pa.concat_tables(parts, promote_options="permissive"))
        except pa.ArrowException as error:
            raise ExchangeError(f"scores tables do not fit together: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a Parquet file atomically."""
        with open_atomic(path) as file:
            pq.write_table(self.table, file, compression="zstd")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def has(self, name: str) -> bool:
        """Return whether the column exists and, if the table has rows, holds a value."""
        return name in self.table.column_names and (
            len(self) == 0 or self.table.column(name).null_count < len(self)
        )

    def with_column(self, name: str, values: ArrayLike) -> "ScoresTable":
        """Return a table with the extra column `name` set to `values` [N]."""
        table = self.table.drop_columns([name]) if name in self.table.column_names else self.table
        return ScoresTable(table.append_column(name, pa.array(np.asarray(values))))

    def select(self, rows: ArrayLike) -> "ScoresTable":
        """Return the rows of a boolean mask [N], or of an index array in its order."""
        wanted = np.asarray(rows)
        positions = np.flatnonzero(wanted) if wanted.dtype == np.bool_ else wanted.astype(np.int64)
        return ScoresTable(self.table.take(pa.array(positions)))

    def floats(self, name: str) -> NDArray[np.float64]:
        """Return a numeric column [N]. Null becomes NaN.

        Raises:
            ExchangeError: the column is missing or not numeric.
        """
        if name not in self.table.column_names:
            raise ExchangeError(f"scores table has no column {name}")
        try:
            column = self.table.column(name).cast(pa.float64())
        except pa.ArrowException:
            raise ExchangeError(f"scores table column {name} is not numeric") from None
        return np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)

    def texts(self, name: str) -> list[str | None]:
        """Return a text column [N]."""
        values: list[str | None] = self.table.column(name).to_pylist()
        return values

    @property
    def ids(self) -> list[str]:
        """Exchange ids, in row order."""
        return [str(value) for value in self.texts("id")]

    @property
    def labels(self) -> NDArray[np.float64]:
        """Labels [N] in [0, 1]; NaN for rows without a label."""
        return self.floats("label")

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """The guard's decisions [N]: True for flagged exchanges."""
        return np.array(self.table.column("flagged").to_numpy(zero_copy_only=False), dtype=bool)

    @property
    def has_groups(self) -> bool:
        """Whether the table says which rows share a prompt."""
        return self.has("prompt_group")

    @property
    def groups(self) -> list[str]:
        """The group of each row, equal for rows that share a prompt: `prompt_group`, or else the id."""
        if not self.has_groups:
            return self.ids
        return [value if value is not None else f"id:{i}" for value, i in self._groups_and_ids()]

    @property
    def has_lengths(self) -> bool:
        """Whether exchanges have lengths. Scores of other programs may come without them."""
        return self.has("length") or bool(self.floats("tokens_stage1").any())

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Number of tokens of each exchange [N]."""
        return self.floats("length" if self.has("length") else "tokens_stage1")

    def _groups_and_ids(self) -> Iterable[tuple[str | None, str]]:
        return zip(self.texts("prompt_group"), self.ids, strict=True)


def _conform(table: pa.Table, origin: str) -> pa.Table:
    missing = [name for name in SCORES_SCHEMA.names if name not in table.column_names]
    if missing:
        raise ExchangeError(f"{origin}: scores table lacks the columns {', '.join(missing)}; score again")
    arrays = [_cast(table.column(field.name), field, origin) for field in SCORES_SCHEMA]
    extras = [name for name in table.column_names if name not in SCORES_SCHEMA.names]
    fields = [*SCORES_SCHEMA, *(table.schema.field(name) for name in extras)]
    arrays += [table.column(name) for name in extras]
    conformed = pa.table(arrays, schema=pa.schema(fields, metadata=table.schema.metadata))
    labels = conformed.column("label").drop_null().to_numpy()
    if len(labels) and not ((labels >= 0) & (labels <= 1)).all():
        raise ExchangeError(f"{origin}: column label holds values outside [0, 1]")
    return conformed


def _cast(column: pa.ChunkedArray, field: pa.Field, origin: str) -> pa.ChunkedArray:
    try:
        cast = column.cast(field.type)
    except pa.ArrowException:
        raise ExchangeError(
            f"{origin}: column {field.name} has type {column.type}; expected {field.type}"
        ) from None
    if not field.nullable and cast.null_count:
        raise ExchangeError(f"{origin}: column {field.name} holds {cast.null_count} nulls; expected none")
    return cast
