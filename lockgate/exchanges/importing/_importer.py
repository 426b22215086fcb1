"""Import of a data set on disk into a file of exchanges, row by row."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lockgate.constitution import DataMapping, load_constitution
from lockgate.durable import open_atomic
from lockgate.errors import ExchangeError
from lockgate.exchanges._record import Exchange
from lockgate.exchanges._write import write_exchanges
from lockgate.exchanges.importing._cells import json_value, read_cell, read_text
from lockgate.exchanges.importing._faults import RowFault
from lockgate.exchanges.importing._labels import CategoryFinder, find_label
from lockgate.exchanges.importing._layouts import Draft, find_layout
from lockgate.exchanges.importing._notes import make_notes
from lockgate.exchanges.importing._report import ImportReport, Tally
from lockgate.exchanges.importing._rows import Row, read_rows
from lockgate.exchanges.importing._source import DataFile, open_source
from lockgate.exchanges.importing._turns import TurnReader

_SAMPLE_ROWS = 50
_SAMPLE_VALUES = 5

OnReject = Callable[[DataFile, int, RowFault], object]


class DataImport:
    """A data set and the way its rows are read. Iterate once over its exchanges, then read `report`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        mapping: DataMapping | None = None,
        *,
        limit: int | None = None,
        on_reject: OnReject | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        """Find the files and the layout.

        Args:
            path: a file or a folder; see `open_source`.
            mapping: as `read_mapping` returns it. Without one, rows get no label and the layout is found.
            limit: stop after this many exchanges. By default all are read.
            on_reject: called with the file, row number and fault of each row that is left out.
            advance: called with 1 after each row.

        Raises:
            ExchangeError: there are no such data, or their layout is not known.
            ConstitutionError: the mapping's constitution can't be loaded.
        """
        self.mapping = mapping or DataMapping()
        self.source = open_source(Path(path), self.mapping)
        self._limit, self._on_reject, self._advance = limit, on_reject, advance
        constitution = load_constitution(self.mapping.constitution) if self.mapping.constitution else None
        ids = [category.id for category in constitution.categories] if constitution else []
        self._tally = Tally(frozenset(constitution.category_ids) if constitution else frozenset())
        samples = self._sample()
        turns = TurnReader(self.mapping.roles, frozenset(self.mapping.ignore_keys))
        self.layout = find_layout(self.mapping.shape, self.mapping.columns, samples, turns)
        self._categories = CategoryFinder(self.mapping, frozenset(ids), self._category_column(samples))

    def __iter__(self) -> Iterator[Exchange]:
        """Yield exchanges in file order.

        Raises:
            ExchangeError: a file is damaged, or no row could be imported. The report holds faults of single
                rows.
        """
        for file in self.source.files:
            for number, decode in read_rows(file, self.mapping.rows):
                if self._limit is not None and self._tally.imported >= self._limit:
                    return
                yield from self._exchanges(file, number, decode)
        if not self._tally.imported:
            first = f"; the first: {self._tally.first[0]}" if self._tally.first else ""
            left = sum(self._tally.rejected.values())
            raise ExchangeError(
                f"{self.source.path}: nothing to import: {self._tally.rows} rows, {left} of them rejected, "
                f"{self._tally.skipped} exchanges skipped{first}"
            )

    @property
    def report(self) -> ImportReport:
        """Counts of the rows read so far."""
        tally = self._tally
        columns = self.layout.columns.model_dump(exclude_none=True, exclude_defaults=True)
        return ImportReport(
            source=str(self.source.path),
            kind=self.source.files[0].kind,
            files=len(self.source.files),
            splits=self.source.splits,
            license=self.source.license,
            shape=self.layout.shape,
            columns=columns,
            rows=tally.rows,
            imported=tally.imported,
            rejected=dict(tally.rejected.most_common()),
            first=tuple(tally.first),
            skipped=tally.skipped,
            prompts=tally.prompts,
            labels=dict(sorted(tally.labels.items())),
            categories=dict(tally.categories.most_common()) or tally.own.shown,
            unmapped=tally.unmapped.shown,
            hidden=tally.own.hidden + tally.unmapped.hidden,
            harmful_as_harmless=tally.harmful_as_harmless,
            notes=make_notes(
                tally,
                self.source,
                self.mapping,
                limited=self._limited,
                sides=self.layout.shape == "preference",
            ),
        )

    @property
    def _limited(self) -> bool:
        return self._limit is not None and self._tally.imported >= self._limit

    def _sample(self) -> dict[str, list[object]]:
        """Return the columns of the first rows that can be decoded, with a few values each."""
        samples: dict[str, list[object]] = {}
        seen = 0
        for file in self.source.files:
            for _, decode in read_rows(file, self.mapping.rows):
                if seen == _SAMPLE_ROWS:
                    return samples
                seen += 1
                try:
                    row = decode()
                except RowFault:
                    continue
                for column in row:
                    values = samples.setdefault(str(column), [])
                    if len(values) < _SAMPLE_VALUES and (value := _value_or_none(row, column)) is not None:
                        values.append(value)
        if not samples:
            raise ExchangeError(f"{self.source.path}: no row with columns among the first {seen}")
        return samples

    def _category_column(self, samples: Mapping[str, object]) -> str | None:
        named = self.mapping.columns.category
        if named is not None or self.layout.shape == "exchange":
            return named
        if "category" in samples:
            return "category"
        if self.mapping.categories:
            raise ExchangeError(
                f"{self.source.path}: columns.category: the mapping lists categories, but there is no column "
                "`category`; name the column that holds them"
            )
        return None

    def _exchanges(self, file: DataFile, number: int, decode: Callable[[], Row]) -> Iterator[Exchange]:
        tally = self._tally
        tally.rows += 1
        tally.by_split[file.split or ""] += 1
        try:
            row = decode()
            made = [self._exchange(row, draft, file.split) for draft in self.layout.drafts(row)]
        except RowFault as fault:
            tally.reject(fault, f"{file.path}:{number}: {fault}")
            if self._on_reject is not None:
                self._on_reject(file, number, fault)
            made = []
        for exchange, names in made:
            unmapped = bool(names) and exchange.category is None
            for name in names if self._misses(names) else ():
                tally.unmapped.add(name)
            if unmapped and self.mapping.unmapped == "skip":
                tally.skipped += 1
            elif not self._limited:
                tally.add(exchange)
                yield exchange
        if self._advance is not None:
            self._advance(1)

    def _misses(self, names: list[str]) -> bool:
        return (
            bool(names) and self.mapping.constitution is not None and self._categories.target(names) is None
        )

    def _exchange(self, row: Row, draft: Draft, split: str | None) -> tuple[Exchange, list[str]]:
        names = self._categories.names(row, draft)
        record, columns = draft.record, self.mapping.columns
        category = self._categories.target(names) or self.mapping.default_category
        if category is None and record is not None and self.mapping.constitution is None:
            category = record.category
        source = self.mapping.source
        if columns.source is not None:
            source = str(json_value(read_text(row, columns.source), columns.source))
        meta: dict[str, Any] = dict(record.meta) if record is not None else {}
        if names and names != [category]:
            meta["source_category"] = names[0] if len(names) == 1 else names
        for key, value in (("split", split), ("side", draft.side)):
            if value is not None:
                meta.setdefault(key, value)
        for column in columns.meta:
            if (kept := _value_or_none(row, column)) is not None:
                meta[column] = json_value(kept, column)
        exchange = Exchange(
            draft.messages,
            find_label(self.mapping.label, row, draft, split),
            category,
            source or (record.source if record is not None else "") or self.source.name,
            meta,
        )
        return exchange, names


def import_data(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    mapping: DataMapping | None = None,
    *,
    limit: int | None = None,
    rejects: str | os.PathLike[str] | None = None,
    advance: Callable[[int], object] | None = None,
) -> ImportReport:
    """Import a data set into a file of exchanges. The file appears when all of it is written.

    Args:
        path, mapping, limit, advance: see `DataImport`.
        output: a file ending in .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
        rejects: file for the rows that are left out: JSON lines with file, row, reason and message. They
            hold no text of the row. By default there is none.

    Returns:
        The counts of the import.

    Raises:
        ExchangeError: as for `DataImport`, or an output lies within the source. Nothing is written then.
        ConstitutionError: the mapping's constitution can't be loaded.
    """
    with ExitStack() as stack:
        sink = stack.enter_context(open_atomic(rejects)) if rejects is not None else None

        def note(file: DataFile, number: int, fault: RowFault) -> None:
            if sink is not None:
                line = {"file": str(file.path), "row": number, "reason": fault.reason, "message": str(fault)}
                sink.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")

        found = DataImport(path, mapping, limit=limit, on_reject=note, advance=advance)
        for target in (output, rejects):
            _check_apart(found, target)
        write_exchanges(output, found)
        return found.report


def inspect_data(
    path: str | os.PathLike[str],
    mapping: DataMapping | None = None,
    *,
    limit: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> ImportReport:
    """Report what `import_data` would do, without writing. It raises the same errors."""
    found = DataImport(path, mapping, limit=limit, advance=advance)
    for _ in found:
        pass
    return found.report


def _check_apart(found: DataImport, target: str | os.PathLike[str] | None) -> None:
    if target is None:
        return
    place, folder = Path(target).resolve(), found.source.path.resolve()
    if place == folder or folder in place.parents or place in {f.path.resolve() for f in found.source.files}:
        raise ExchangeError(f"{target}: lies within the source and would be read as data; write it elsewhere")


def _value_or_none(row: Row, column: str) -> object:
    try:
        value: object = read_cell(row, column)
    except RowFault:
        return None
    return value
