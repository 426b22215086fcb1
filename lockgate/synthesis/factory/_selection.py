"""Steps that see all rows before they decide which ones go on."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lockgate.synthesis._rows import Reject, Row, row_id, row_seed
from lockgate.synthesis._step import Step, StepContext
from lockgate.synthesis.factory._roles import (
    ATTACK,
    DIALOGUE,
    FROM_FILE,
    FROM_GENERATOR,
    FROM_TEMPLATE,
    PAIR,
    role_of,
)

_RANKS = {FROM_FILE: 0, FROM_GENERATOR: 1, FROM_TEMPLATE: 2}


class ChooseStep(Step):
    """A step that keeps the planned number of questions of each entry.

    The user's prompts all stay. Generated questions come next, then composed ones. Within one origin a hash
    decides. Generated questions leave room for the composed share, and fill it if too few were composed.
    """

    whole: ClassVar[bool] = True

    def __init__(
        self, name: str, counts: Mapping[str, int], *, composed_share: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(name)
        self._counts = dict(counts)
        self._composed_share = composed_share
        self._seed = seed

    def config(self) -> Mapping[str, Any]:
        return {"counts": self._counts, "composed_share": self._composed_share, "seed": self._seed}

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        rows = rows if isinstance(rows, Sequence) else list(rows)
        ranked: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for row in rows:
            rank = _RANKS[str(row.meta["origin"])]
            drawn = row_seed(row, f"choose/{self._seed}")
            ranked[str(row.category)].append((rank, drawn, row_id(row)))
        kept: set[str] = set()
        for category, members in ranked.items():
            kept.update(self._choose(sorted(members), self._counts[category]))
        for row in rows:
            if row_id(row) in kept:
                context.count(f"{row.category}/{row.meta['origin']}")
                yield row
            else:
                context.reject(row, Reject("surplus"))

    def _choose(self, members: Sequence[tuple[int, int, str]], count: int) -> list[str]:
        """Return the ids of the rows that stay, from one entry's rows in the order of rank and draw."""
        by_rank = {rank: [name for own, _, name in members if own == rank] for rank in _RANKS.values()}
        given, generated, composed = by_rank.values()
        room = max(0, count - len(given))
        first = round(room * (1 - self._composed_share))
        return [*given, *[*generated[:first], *composed, *generated[first:]][:room]]


class WholePairsStep(Step):
    """A step that drops a row if its pair (`meta.pair`) has lost the other member."""

    whole: ClassVar[bool] = True

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        rows = rows if isinstance(rows, Sequence) else list(rows)
        members = Counter(row.meta[PAIR] for row in rows if PAIR in row.meta)
        for row in rows:
            if PAIR in row.meta and members[row.meta[PAIR]] != 2:
                context.reject(row, Reject("pair_broken", str(row.meta[PAIR])))
            else:
                yield row


class BalanceStep(Step):
    """A step that keeps as many attacks as harmless dialogues, up to the plan's share of both."""

    whole: ClassVar[bool] = True

    def __init__(self, name: str, share: float) -> None:
        super().__init__(name)
        self._share = share

    def config(self) -> Mapping[str, Any]:
        return {"share": self._share}

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        rows = rows if isinstance(rows, Sequence) else list(rows)
        pool: dict[str, list[str]] = {ATTACK: [], DIALOGUE: []}
        others = 0
        for row in rows:
            if role_of(row) in pool:
                pool[role_of(row)].append(row_id(row))
            else:
                others += 1
        most = int(self._share / (1 - self._share) * others / 2)
        count = min(most, *map(len, pool.values()))
        kept = {name for names in pool.values() for name in sorted(names)[:count]}
        for row in rows:
            if role_of(row) not in pool or row_id(row) in kept:
                yield row
            else:
                context.reject(row, Reject("out_of_balance", role_of(row)))
