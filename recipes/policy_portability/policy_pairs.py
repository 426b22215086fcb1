"""The pairs of exchanges, and the two constitutions that judge them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lockgate.constitution import Constitution, load_constitution
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, read_exchanges

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results" / "synthesis"
PAIRS = HERE / "pairs.jsonl"
POLICIES = ("stage-magic", "magic-school")


@dataclass(frozen=True, slots=True)
class PairedExchange:
    """One side of a pair. `labels` (1 is harmful) and `categories` have the constitutions' names as keys."""

    exchange: Exchange
    pair: str
    side: str
    labels: dict[str, int]
    categories: dict[str, str]

    @property
    def flipped(self) -> bool:
        """Whether the constitutions judge this exchange differently."""
        return len(set(self.labels.values())) > 1


def load_policies() -> dict[str, Constitution]:
    """Return both constitutions by name."""
    return {
        "stage-magic": load_constitution("stage-magic"),
        "magic-school": load_constitution(HERE / "magic-school.yaml"),
    }


def read_pairs(path: Path = PAIRS) -> list[PairedExchange]:
    """Read the exchanges in file order. The two of a pair are neighbours.

    Raises:
        ExchangeError: a line is not an exchange or lacks a field of a pair, a pair has not two exchanges, or no
            constitution judges the two differently.
    """
    rows = [
        _paired(exchange, f"{path}: exchange {number}")
        for number, exchange in enumerate(read_exchanges(path), 1)
    ]
    for first, second in zip(rows[::2], rows[1::2], strict=False):
        differ = any(first.labels[name] != second.labels[name] for name in POLICIES)
        if (first.pair, first.side, second.side) != (second.pair, "a", "b") or not differ:
            raise ExchangeError(
                f"{path}: pair {first.pair}: expected sides a and b next to each other, with labels that differ "
                "under at least one constitution"
            )
    if len(rows) % 2 or len({row.pair for row in rows}) * 2 != len(rows):
        raise ExchangeError(f"{path}: expected two exchanges to each pair and each pair once")
    return rows


def flipped_pairs(rows: Sequence[PairedExchange]) -> set[str]:
    """Return the pairs with an exchange that the constitutions judge differently."""
    return {row.pair for row in rows if row.flipped}


def _paired(exchange: Exchange, where: str) -> PairedExchange:
    meta = exchange.meta
    labels, categories = meta.get("labels"), meta.get("categories")
    if (
        not isinstance(labels, dict)
        or not isinstance(categories, dict)
        or set(labels) != set(POLICIES)
        or set(categories) != set(POLICIES)
        or not set(labels.values()) <= {0, 1}
    ):
        raise ExchangeError(f"{where}: expected labels (0 or 1) and categories under {', '.join(POLICIES)}")
    if exchange.is_prompt_only or not meta.get("pair") or meta.get("side") not in ("a", "b"):
        raise ExchangeError(f"{where}: expected an answer, a pair's name and a side, a or b")
    return PairedExchange(exchange, str(meta["pair"]), str(meta["side"]), labels, categories)
