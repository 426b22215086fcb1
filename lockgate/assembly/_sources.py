"""The user's files, without rows that must not train or calibrate. Each dropped row has a reason."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lockgate.curation import EvaluationIndex, find_duplicates
from lockgate.errors import CalibrationError, ExchangeError
from lockgate.exchanges import Exchange, PromptPrints, prompt_text, read_exchanges

REJECTED = "rejected"


@dataclass(slots=True)
class Dropped:
    """Dropped rows, each with its source and the reason in `meta.rejected`."""

    rows: list[Exchange] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: Exchange, source: str, reason: str) -> None:
        """Drop a row of this source."""
        self.counts[f"{source}/{reason}"] += 1
        why = {"step": source, "reason": reason}
        self.rows.append(replace(row, meta={**row.meta, REJECTED: why}))

    def unless(self, rows: Sequence[Exchange], reasons: Iterable[str | None], source: str) -> list[Exchange]:
        """Return the rows without a reason, and drop the others."""
        kept = []
        for row, reason in zip(rows, reasons, strict=True):
            if reason is None:
                kept.append(row)
            else:
                self.add(row, source, reason)
        return kept


@dataclass(frozen=True, slots=True)
class Guarded:
    """Exchanges that must neither train nor calibrate: evaluation items and held-out synthetic prompts."""

    index: EvaluationIndex | None
    held_out: PromptPrints

    def check(self, rows: Sequence[Exchange]) -> Iterator[str | None]:
        """Yield for each row the reason to leave it out, or None."""
        met = self.held_out.find([prompt_text(row) for row in rows]) if len(self.held_out) else []
        for place, row in enumerate(rows):
            if self.index is not None and self.index.find_leak(row) is not None:
                yield "evaluation_leak"
            elif met and met[place] is not None:
                yield "held_out_prompt"
            else:
                yield None


def read_labelled(
    paths: Sequence[Path], synthetic: Sequence[Exchange], guarded: Guarded, dropped: Dropped
) -> list[Exchange]:
    """Read the user's labelled exchanges. Drop those that can't train or repeat other rows."""
    rows = [row for path in paths for row in read_exchanges(path)]
    rows = dropped.unless(rows, (_unusable(row) for row in rows), "data")
    rows = dropped.unless(rows, guarded.check(rows), "data")
    return dropped.unless(rows, _repeated(synthetic, rows), "data")


def read_traffic(paths: Sequence[Path], guarded: Guarded, dropped: Dropped) -> list[Exchange]:
    """Read the user's own traffic, which counts as benign.

    Raises:
        CalibrationError: A row is labelled harmful. The message names file and row.
        ExchangeError: A file holds no exchange.
    """
    rows = []
    for path in paths:
        count = 0
        for count, row in enumerate(read_exchanges(path), 1):
            if row.label is not None and row.label >= 0.5:
                raise CalibrationError(
                    f"{path}: exchange {count} is labelled harmful; --benign takes benign traffic only. "
                    "Leave such rows out, or give them with --data"
                )
            rows.append(row)
        if not count:
            raise ExchangeError(f"{path}: no exchange; expected benign traffic, one exchange a line")
    rows = dropped.unless(rows, (None if _has_answer(row) else "no_answer" for row in rows), "benign")
    return dropped.unless(rows, guarded.check(rows), "benign")


def _unusable(row: Exchange) -> str | None:
    if row.label is None:
        return "no_label"
    return None if _has_answer(row) else "no_answer"


def _has_answer(row: Exchange) -> bool:
    return not row.is_prompt_only and bool(row.messages[-1].content.strip())


def _repeated(before: Sequence[Exchange], rows: Sequence[Exchange]) -> Iterator[str | None]:
    """Yield for each row the reason to drop it, if it repeats an earlier row nearly word by word."""
    texts = [_text(row) for row in (*before, *rows)]
    first: dict[str, Exchange] = {}
    for place, (row, group) in enumerate(zip((*before, *rows), find_duplicates(texts), strict=True)):
        earlier = first.setdefault(group, row)
        if place < len(before):
            continue
        if earlier is row:
            yield None
        else:
            same = (earlier.label or 0.0) >= 0.5, (row.label or 0.0) >= 0.5
            yield "duplicate" if same[0] == same[1] else "duplicate_of_another_label"


def _text(row: Exchange) -> str:
    return "\n".join(message.content for message in row.messages)
