"""What an import found, counted."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.exchanges._record import Exchange
from lockgate.exchanges.importing._faults import RowFault, is_label

# More different values than this, or so many that hardly any comes twice, and the column holds no labels.
_MAX_NAMES = 200
_FEW_NAMES = 20
_FIRST = 5


@dataclass(slots=True)
class Names:
    """Counts by what a data set calls something; memory doesn't grow with rows.

    If the wrong column was named, these are texts of users: what doesn't look like a label is counted alone.
    """

    counts: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0

    def add(self, name: str) -> None:
        """Count one."""
        if is_label(name) and (name in self.counts or len(self.counts) <= _MAX_NAMES):
            self.counts[name] += 1
        else:
            self.unnamed += 1

    @property
    def total(self) -> int:
        """All that were counted."""
        return self.counts.total() + self.unnamed

    @property
    def shown(self) -> dict[str, int]:
        """Names that may be shown, the most frequent first: none where the values repeat too seldom."""
        many = len(self.counts)
        if many > _MAX_NAMES or (many > _FEW_NAMES and self.counts.total() < 2 * many):
            return {}
        return dict(self.counts.most_common())

    @property
    def hidden(self) -> int:
        """How many have a name that is not shown."""
        return self.total - sum(self.shown.values())


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of one import.

    Attributes:
        source, kind, files, splits, license: what was read; `license` is what the data set's card says.
        shape, columns: the layout, and the column that each of its parts was read from.
        rows: rows read; `imported`: exchanges made (a preference gives two a row).
        rejected: rows left out, by reason; `first`: messages of the first of them.
        skipped: exchanges left out since their category is not mapped.
        prompts: exchanges without an answer.
        labels: exchanges by label: harmful (0.5 and above), harmless, unlabelled.
        categories: exchanges by id of the constitution, or by the data set's own where there is none.
        unmapped: exchanges by the data set's own category, where it leads nowhere.
        hidden: categories of either kind that are only counted: they are long, or hardly any comes twice, so
            that they may be texts and no labels.
        harmful_as_harmless: harmful exchanges whose category stands in the harmless half.
        notes: what the reader should know, each with what to do.
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
    """Counters of an import that is under way; memory doesn't grow with rows."""

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
