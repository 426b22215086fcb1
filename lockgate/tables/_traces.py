"""The block trace: the scores of both stages at the end of each block of an answer, without text."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError

TRACE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("block", pa.int16(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        # Null if no token of the block counts.
        pa.field("probe", pa.float32()),
        # Null if stage 2 was not asked.
        pa.field("classifier", pa.float32()),
    ]
)

# A second stage that mixes several judges has a further column for each: null if it was not asked.
VOICE = "voice_"

_Number = TypeVar("_Number", bound=np.generic)

RowBlocks = tuple[int, Sequence[int], ArrayLike, ArrayLike | None]


@dataclass(frozen=True, slots=True, eq=False)
class BlockTrace:
    """One line for each block, ordered by the row of the scores table and then by block.

    A failed reading has the score +inf. It flags, so it is not a missing value.

    Attributes:
        row: row of the scores table [B].
        block: 0 for all tokens before the answer, then 1, 2, ... [B].
        end: number of answer tokens up to the end of the block; 0 for block 0 [B].
        probe: largest smoothed probe logit of the block; NaN if no token counts (see
            `CascadeState`) [B].
        classifier: the second stage's logit at the end of the block; NaN if it was not asked [B].
        voices: the logit of each voice by its name, if the second stage mixes several; NaN if it was not
            asked [B].
    """

    row: NDArray[np.int32]
    block: NDArray[np.int16]
    end: NDArray[np.int32]
    probe: NDArray[np.float32]
    classifier: NDArray[np.float32]
    voices: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, rows: Iterable[RowBlocks], voices: Mapping[str, Sequence[ArrayLike]] | None = None
    ) -> "BlockTrace":
        """Build a trace from (row, ends, probe, classifier) of each exchange.

        `classifier` is None for an exchange without verdicts. `voices` has the logits of each voice, for each
        exchange.

        Raises:
            ExchangeError: the blocks do not fit together, see `validate`.
        """
        numbers, ends, probes, verdicts = [], [], [], []
        for number, end, probe, classifier in rows:
            numbers.append(np.full(len(end), number))
            ends.append(np.asarray(end))
            probes.append(np.asarray(probe, dtype=np.float32))
            missing = np.full(len(end), np.nan, dtype=np.float32)
            verdicts.append(missing if classifier is None else np.asarray(classifier, dtype=np.float32))
        blocks = [np.arange(len(end)) for end in ends]
        trace = cls(
            _join(numbers, np.int32),
            _join(blocks, np.int16),
            _join(ends, np.int32),
            _join(probes, np.float32),
            _join(verdicts, np.float32),
            {
                name: _join([np.asarray(part, dtype=np.float32) for part in parts], np.float32)
                for name, parts in (voices or {}).items()
            },
        )
        trace.validate()
        return trace

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "BlockTrace":
        """Read a Parquet file.

        Raises:
            ExchangeError: the file is missing, damaged, or not a block trace.
        """
        source = Path(path)
        try:
            table = pq.read_table(source)
        except (OSError, pa.ArrowException) as error:
            raise ExchangeError(
                f"{source}: cannot be read as Parquet ({type(error).__name__}); expected a block trace as "
                "`lockgate score --blocks` writes it"
            ) from None
        missing = [name for name in TRACE_SCHEMA.names if name not in table.column_names]
        if missing:
            raise ExchangeError(f"{source}: block trace lacks the columns {', '.join(missing)}; score again")
        columns = {column.name: _column(table, column, source) for column in TRACE_SCHEMA}
        spoken = {
            name.removeprefix(VOICE): _column(table, pa.field(name, pa.float32()), source)
            for name in table.column_names
            if name.startswith(VOICE)
        }
        trace = cls(**columns, voices=spoken)
        trace.validate(str(source))
        return trace

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a Parquet file atomically. NaN becomes null.

        Raises:
            ExchangeError: the blocks do not fit together, see `validate`.
        """
        self.validate(str(path))
        schema, columns = TRACE_SCHEMA, [getattr(self, name) for name in TRACE_SCHEMA.names]
        for name, logits in self.voices.items():
            schema = schema.append(pa.field(VOICE + name, pa.float32()))
            columns.append(logits)
        arrays = [
            pa.array(column, type=kind.type, from_pandas=kind.nullable)
            for column, kind in zip(columns, schema, strict=True)
        ]
        with open_atomic(path) as file:
            pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")

    def __len__(self) -> int:
        return len(self.row)

    def of(self, row: int) -> slice:
        """Return the slice of the blocks that belong to a row of the scores table. It may be empty."""
        first, last = np.searchsorted(self.row, [row, row + 1])
        return slice(int(first), int(last))

    @property
    def rows(self) -> NDArray[np.int32]:
        """The rows that have blocks, ascending, without repeats."""
        return np.unique(self.row)

    def validate(self, origin: str = "block trace") -> None:
        """Check that the blocks fit together.

        Args:
            origin: name of the trace in error messages.

        Raises:
            ExchangeError: they do not. The message names `origin`, and the first wrong row and block.
        """
        columns = {name: getattr(self, name) for name in TRACE_SCHEMA.names}
        columns |= {VOICE + name: logits for name, logits in self.voices.items()}
        lengths = {name: np.shape(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or len(lengths["row"]) != 1:
            found = ", ".join(f"{name} {shape}" for name, shape in lengths.items())
            raise ExchangeError(f"{origin}: expected columns of one length; found {found}")
        if len(self.row) == 0:
            return
        first = np.concatenate([[True], self.row[1:] != self.row[:-1]])
        before = np.concatenate([[-1], np.where(first[1:], -1, self.block[:-1].astype(np.int64))])
        self._refuse(np.diff(self.row, prepend=self.row[0]) < 0, "rows must be in ascending order", origin)
        self._refuse(self.row < 0, "row numbers start at 0", origin)
        self._refuse(self.block != before + 1, "blocks must be 0, 1, 2, ... without gaps", origin)
        self._refuse(first & (self.end != 0), "block 0 ends at answer token 0", origin)
        shrinks = np.diff(self.end, prepend=0) <= 0
        self._refuse(~first & shrinks, "every block after the first must end later", origin)
        for name in columns.keys() - {"row", "block", "end"}:
            low = columns[name] == -np.inf
            self._refuse(low, f"{name} must be a logit, null, or +inf for a failed reading", origin)

    def _refuse(self, wrong: NDArray[np.bool_], rule: str, origin: str) -> None:
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ExchangeError(
                f"{origin}: row {self.row[place]}, block {self.block[place]}: {rule}; score again"
            )


def _join(parts: Sequence[NDArray[Any]], kind: type[_Number]) -> NDArray[_Number]:
    if not parts:
        return np.empty(0, dtype=kind)
    whole = np.concatenate(parts)
    if np.issubdtype(kind, np.integer) and len(whole) and whole.max() > np.iinfo(np.dtype(kind).name).max:
        raise ExchangeError(f"block trace: {whole.max()} is too large for {np.dtype(kind).name}")
    return whole.astype(kind)


def _column(table: pa.Table, field: pa.Field, origin: Path) -> NDArray[Any]:
    try:
        column = table.column(field.name).cast(field.type)
    except pa.ArrowException:
        raise ExchangeError(
            f"{origin}: column {field.name} has type {table.column(field.name).type}; expected {field.type}"
        ) from None
    if not field.nullable and column.null_count:
        raise ExchangeError(f"{origin}: column {field.name} holds {column.null_count} nulls; expected none")
    return np.array(column.to_numpy(zero_copy_only=False), dtype=field.type.to_pandas_dtype())
