"""Counts of what an import found."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.exchanges._record import Exchange
from lockgate.exchanges.importing._faults import RowFault, is_label

# A column with more different values than this, or with values that rarely repeat, holds no labels.
_MAX_NAMES = 200
_FEW_NAMES = 20
_FIRST = 5


@dataclass(slots=True)
class Names:
    """Counts of the names that a data set uses. Memory does not grow with the rows.

    If the mapping names the wrong column, the names are texts of users. So a value that doesn't look like a
    label is counted without its name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0

    def add(self, name: str) -> None:
        """Count one value."""
        if is_label(name) and (name in self.counts or len(self.counts) <= _MAX_NAMES):
            self.counts[name] += 1
        else:
            self.unnamed += 1

    @property
    def total(self) -> int:
        """Number of values counted."""
        return self.counts.total() + self.unnamed

    @property
    def shown(self) -> dict[str, int]:
        """Names that may be shown, the most frequent first. There are none if the values rarely repeat."""
        many = len(self.counts)
        if many > _MAX_NAMES or (many > _FEW_NAMES and self.counts.total() < 2 * many):
            return {}
        return dict(self.counts.most_common())

    @property
    def hidden(self) -> int:
        """Number of values counted without a name that may be shown."""
        return self.total - sum(self.shown.values())


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of one import.

    Attributes:
        source: path of the data set.
        kind: kind of its files.
        files: number of files.
        splits: splits that the files belong to.
        license: the licence that the data set's card names.
        shape: shape of the rows.
        columns: the column that each part of the layout was read from.
        rows: rows read.
        imported: exchanges made. A row with a preference gives two.
        rejected: rows left out, by reason.
        first: messages of the first rows left out.
        skipped: exchanges left out because their category is not mapped.
        prompts: exchanges without an answer.
        labels: exchanges by label: harmful (0.5 and above), harmless, unlabelled.
        categories: exchanges by id of the constitution, or by the data set's own category without one.
        unmapped: exchanges by the data set's own category, where the mapping does not cover it.
        hidden: values of categories that are counted without their name. They are long or rarely repeat, so
            they may be texts.
        harmful_as_harmless: harmful exchanges with a harmless category.
        notes: remarks for the reader, each with what to do.
    """

    source: str
    kind: str
    files: int
    splits: tuple[str, ...]
    license: str | None
    shape: str
    columns: dict[str, Any]
    rows: int = 0
    imported: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    skipped: int = 0
    prompts: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    unmapped: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    harmful_as_harmless: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Tally:
    """Counters of a running import. Memory does not grow with the rows."""

    harmful_ids: frozenset[str]
    rows: int = 0
    imported: int = 0
    skipped: int = 0
    prompts: int = 0
    harmful_as_harmless: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    own: Names = field(default_factory=Names)
    unmapped: Names = field(default_factory=Names)
    by_split: Counter[str] = field(default_factory=Counter)

    def reject(self, fault: RowFault, located: str) -> None:
        """Count a row that is left out."""
        self.rejected[fault.reason] += 1
        if len(self.first) < _FIRST:
            self.first.append(located)

    def add(self, exchange: Exchange) -> None:
        """Count an exchange that was made."""
        self.imported += 1
        self.prompts += exchange.is_prompt_only
        harmful = exchange.label is not None and exchange.label >= 0.5
        self.labels["harmful" if harmful else "unlabelled" if exchange.label is None else "harmless"] += 1
        if exchange.category is not None:
            if self.harmful_ids:
                self.categories[exchange.category] += 1
            else:
                self.own.add(exchange.category)
            known = bool(self.harmful_ids)
            self.harmful_as_harmless += known and harmful and exchange.category not in self.harmful_ids
