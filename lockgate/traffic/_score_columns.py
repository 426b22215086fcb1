"""Scores that another program made, read from the columns that its user names into a scores table."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lockgate.errors import CalibrationError, ConfigError, ExchangeError
from lockgate.exchanges import shown_name, text_hash
from lockgate.tables import SCORES_SCHEMA, ScoresTable

_CSV = (".csv", ".csv.gz", ".csv.zst")
# A row of a CSV file must fit into one block.
_BLOCK_BYTES = 2**24
_LABELS = {"": None, "false": 0.0, "true": 1.0}
_ROWS = 2**16


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """The columns of a file of scores. One row is one exchange.

    Attributes:
        score: the score, a number.
        prompt: text of the prompt. It is hashed on reading and kept nowhere.
        group: a key that is equal for rows with the same prompt, such as a hash. Give this or `prompt`.
        id: id of the exchange. Default: the number of the row.
        label: harmful (1) or harmless (0); empty if unknown. Default: no row has a label.
        source, language: names of the parts that the traffic consists of.
        length: length of the exchange, in any unit.
        turns: number of messages.
        lower_is_harmful: whether low scores are the harmful ones. The table then holds negated scores.

    Raises:
        ConfigError: neither or both of `prompt` and `group` are given, or a column has two meanings.
    """

    score: str
    prompt: str | None = None
    group: str | None = None
    id: str | None = None
    label: str | None = None
    source: str | None = None
    language: str | None = None
    length: str | None = None
    turns: str | None = None
    lower_is_harmful: bool = False

    def __post_init__(self) -> None:
        """Refuse columns that can't be read together."""
        if (self.prompt is None) == (self.group is None):
            raise ConfigError(
                "prompt: name the column with the text of the prompts, or (group) one with a hash of it; "
                "distinct prompts are counted with it"
            )
        clash = sorted(name for name in self.names if self.names.count(name) > 1 and name == self.score)
        if clash:
            raise ConfigError("score: the column has another meaning too; a score needs its own column")

    @property
    def names(self) -> list[str]:
        """Names of all columns that are read."""
        found = [getattr(self, part.name) for part in fields(self) if part.name != "lower_is_harmful"]
        return [name for name in found if name is not None]

    @property
    def sign(self) -> float:
        """1 if high scores are harmful, otherwise -1. Times a score of the table, it gives the file's."""
        return -1.0 if self.lower_is_harmful else 1.0


def read_score_columns(paths: Sequence[Path], columns: ScoreColumns) -> ScoresTable:
    """Read scores of another program into a scores table, without text.

    Files are read in parts. What is kept of a row is its numbers, its id and the key of its prompt. Rows are
    counted from 1; the header of a CSV file does not count.

    Args:
        paths: files that end in .parquet, .csv, .csv.gz or .csv.zst.
        columns: the columns to read.

    Raises:
        ExchangeError: a file can't be read, lacks a column (the message lists those it has), or a row has no
            number, an infinite score, no prompt, or the id of another row. The message names file, column and
            row, and never repeats a cell.
        CalibrationError: there is no row, or all rows have one prompt.
    """
    reader = _Reader(columns)
    for path in paths:
        first = 1
        for batch in _read_batches(path, columns):
            reader.take(_Part(path, first, batch))
            first += len(batch)
    return reader.table(paths)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows of a file. `first` is the number of the first one."""

    path: Path
    first: int
    batch: pa.RecordBatch

    def refuse(self, name: str, row: int, what: str) -> NoReturn:
        raise ExchangeError(f"{self.path}: column {name}, row {self.first + row}: {what}")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of finite numbers [N]."""
        column, kind = self._column(name)
        if not _is_text(kind) and not (pa.types.is_floating(kind) or _is_exact(kind)):
            raise ExchangeError(f"{self.path}: column {name}: expected numbers, found {kind}")
        try:
            values = np.array(
                column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64
            )
        except pa.ArrowException:
            self._refuse_text(name, column)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row = int(bad[0])
            missing = not column[row].is_valid
            self.refuse(name, row, "expected a finite number, found " + ("none" if missing else "NaN or inf"))
        return values

    def texts(self, name: str) -> list[str | None]:
        """Return a column of texts, or of other plain values as text. Empty ones are None."""
        column, kind = self._column(name)
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise ExchangeError(f"{self.path}: column {name}: expected text or numbers, found {kind}")
        return [value or None for value in column.cast(pa.string()).to_pylist()]

    def named(self, name: str) -> list[str]:
        """Return a column of texts in which no cell is empty."""
        values = self.texts(name)
        for row, value in enumerate(values):
            if value is None:
                self.refuse(name, row, "expected a value, found none")
        return [str(value) for value in values]

    def labels(self, name: str) -> list[float | None]:
        """Return a column of labels in [0, 1]; None where there is none."""
        return [self._label(name, row, value) for row, value in enumerate(self.texts(name))]

    def _label(self, name: str, row: int, value: str | None) -> float | None:
        text = (value or "").strip().lower()
        if text in _LABELS:
            return _LABELS[text]
        try:
            label = float(text)
        except ValueError:
            label = -1.0
        if not 0 <= label <= 1:
            self.refuse(name, row, "expected 1 (harmful), 0 (harmless) or a number between, or nothing")
        return label

    def _column(self, name: str) -> tuple[Any, pa.DataType]:
        column = self.batch.column(self.batch.schema.names.index(name))
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column, column.type

    def _refuse_text(self, name: str, column: Any) -> NoReturn:  # noqa: ANN401 - an Arrow array
        for row, cell in enumerate(column):
            try:
                cell.cast(pa.float64())
            except pa.ArrowException:
                empty = not str(cell).strip()
                self.refuse(name, row, f"expected a number, found {'none' if empty else 'other text'}")
        raise ExchangeError(f"{self.path}: column {name}: expected numbers")


@dataclass(slots=True)
class _Reader:
    """Collects the rows of all files."""

    columns: ScoreColumns
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    lengths: list[NDArray[np.float64]] = field(default_factory=list)
    turns: list[NDArray[np.float64]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    ids: dict[str, tuple[Path, int]] = field(default_factory=dict)
    labels: list[float | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)

    def take(self, part: _Part) -> None:
        names = self.columns
        self.scores.append(names.sign * part.numbers(names.score))
        if names.prompt is not None:
            self.groups += [text_hash(text) for text in part.named(names.prompt)]
        elif names.group is not None:
            self.groups += part.named(names.group)
        self._take_ids(part)
        self.labels += [None] * len(part.batch) if names.label is None else part.labels(names.label)
        named = [""] * len(part.batch) if names.source is None else part.texts(names.source)
        self.sources += [source or "" for source in named]
        if names.language is not None:
            self.languages += part.texts(names.language)
        for name, into in ((names.length, self.lengths), (names.turns, self.turns)):
            if name is not None:
                into.append(_not_negative(part, name))

    def table(self, paths: Sequence[Path]) -> ScoresTable:
        n, names = len(self.groups), self.columns
        where = ", ".join(str(path) for path in paths)
        if n == 0:
            raise CalibrationError(f"{where}: no row; expected one for each exchange")
        if n > 1 and len(set(self.groups)) == 1:
            raise CalibrationError(
                f"{where}: column {names.prompt or names.group}: all {n} rows have one prompt; a budget "
                "needs many distinct ones"
            )
        scores = np.concatenate(self.scores)
        zeros = np.zeros(n, np.int64)
        known: dict[str, Any] = {
            "row": np.arange(n),
            "id": list(self.ids),
            "source": self.sources,
            "label": pa.array(self.labels, pa.float64()),
            **dict.fromkeys(("probe_max", "max_answer", "mixed_max"), scores),
            "flagged": np.zeros(n, bool),
            "stage": zeros + 1,
        }
        optional = {part.name for part in SCORES_SCHEMA if part.nullable}
        rest = [name for name in SCORES_SCHEMA.names if name not in known]
        known |= {name: pa.nulls(n) if name in optional else zeros for name in rest}
        extra: dict[str, Any] = {"prompt_group": self.groups}
        extra |= {"language": pa.array(self.languages, pa.string())} if names.language is not None else {}
        extra |= {"length": np.concatenate(self.lengths)} if self.lengths else {}
        extra |= {"turns": np.concatenate(self.turns)} if self.turns else {}
        return ScoresTable(pa.table(known | extra), where)

    def _take_ids(self, part: _Part) -> None:
        name = self.columns.id
        rows = [(part.path, part.first + row) for row in range(len(part.batch))]
        given = [f"{path.name}:{row}" for path, row in rows] if name is None else part.named(name)
        for row, (identity, place) in enumerate(zip(given, rows, strict=True)):
            if identity not in self.ids:
                self.ids[identity] = place
            elif name is None:
                raise ConfigError(f"scores: two files are called {part.path.name}; rename one of them")
            else:
                path, first = self.ids[identity]
                part.refuse(name, row, f"the id of row {first} of {path} again; ids must be unique")


def _not_negative(part: _Part, name: str) -> NDArray[np.float64]:
    values = part.numbers(name)
    if len(bad := np.flatnonzero(values < 0)):
        part.refuse(name, int(bad[0]), "expected 0 or more, found a negative number")
    return values


def _read_batches(path: Path, columns: ScoreColumns) -> Iterator[pa.RecordBatch]:
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file; expected scores as .parquet or .csv")
    suffix = next((suffix for suffix in (*_CSV, ".parquet") if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ExchangeError(f"{path}: unknown kind of file; the name must end in .parquet, {', '.join(_CSV)}")
    with _located(path):
        yield from _read_parquet(path, columns) if suffix == ".parquet" else _read_csv(path, columns)


def _read_parquet(path: Path, columns: ScoreColumns) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        _check_names(path, columns, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=_ROWS, columns=list(dict.fromkeys(columns.names)))


def _read_csv(path: Path, columns: ScoreColumns) -> Iterator[pa.RecordBatch]:
    # One thread: errors then name the row.
    reading = csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, reading, parsing) as file:
        _check_names(path, columns, file.schema.names)
    names = list(dict.fromkeys(columns.names))
    converting = csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    with csv.open_csv(path, reading, parsing, converting) as file:
        yield from file


def _check_names(path: Path, columns: ScoreColumns, found: Sequence[str]) -> None:
    for name in columns.names:
        if name not in found:
            there = ", ".join(shown_name(other) for other in found[:30]) or "none"
            raise ExchangeError(f"{path}: no column {name}; the file has {there}")
        if found.count(name) > 1:
            raise ExchangeError(f"{path}: two columns are called {name}; rename one of them")


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Name the file in errors of the library, without their text: it may repeat cells."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        row = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if row is not None:
            number, wanted, found = row.groups()
            raise ExchangeError(
                f"{path}: row {int(number) - 1}: expected {wanted} columns, found {found}; quote cells that "
                "hold commas"
            ) from None
        raise ExchangeError(
            f"{path}: cannot be read ({type(error).__name__}); expected a table in UTF-8 with a header"
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_exact(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind))
