"""What an import found, counted."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.exchanges._record import Exchange
from lockgate.exchanges.importing._faults import RowFault

_MAX_NAMES = 1000
_FIRST = 5


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
        categories: exchanges by id of the constitution.
        unmapped: exchanges by the data set's own category, where it leads nowhere; at most 1000 names.
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
    # Names of categories could be anything, even texts, if the wrong column was named.
    unnamed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
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
            self.categories[exchange.category] += 1
            known = bool(self.harmful_ids)
            self.harmful_as_harmless += known and harmful and exchange.category not in self.harmful_ids

    def miss(self, name: str) -> None:
        """Count a category that leads nowhere."""
        if name in self.unmapped or len(self.unmapped) < _MAX_NAMES:
            self.unmapped[name] += 1
        else:
            self.unnamed += 1
