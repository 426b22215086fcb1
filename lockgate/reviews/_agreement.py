"""Whether reviewers agree: the share of equal verdicts, and Cohen's kappa."""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lockgate.reviews._store import Review


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two reviewers agree about the exchanges that both have judged.

    Attributes:
        reviewers: their names.
        n: exchanges that both have judged.
        equal: how many of them got the same verdict.
        kappa: Cohen's kappa: 0 is what chance would give, 1 is full agreement. None if chance alone would
            agree always, because both gave one and the same verdict to all.
    """

    reviewers: tuple[str, str]
    n: int
    equal: int
    kappa: float | None

    @property
    def share(self) -> float:
        """Share of equal verdicts."""
        return self.equal / self.n


@dataclass(frozen=True, slots=True)
class Conflict:
    """An exchange with different verdicts."""

    exchange: str
    choice: int
    reviews: tuple[Review, ...]


def agreements(reviews: Iterable[Review]) -> list[Agreement]:
    """Compare each two reviewers who have judged an exchange in common, those with most of them first."""
    said = _by_exchange(reviews)
    pairs: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for verdicts in said.values():
        for one, other in itertools.combinations(sorted(verdicts, key=lambda found: found.reviewer), 2):
            both = (one.verdict == "harmful", other.verdict == "harmful")
            pairs[one.reviewer, other.reviewer].append(both)
    found = [_compare(names, both) for names, both in pairs.items()]
    return sorted(found, key=lambda pair: (-pair.n, pair.reviewers))


def conflicts(reviews: Iterable[Review]) -> list[Conflict]:
    """Return the exchanges about whose verdict reviewers disagree."""
    return [
        Conflict(*key, tuple(said))
        for key, said in _by_exchange(reviews).items()
        if len({review.verdict for review in said}) > 1
    ]


def _by_exchange(reviews: Iterable[Review]) -> dict[tuple[str, int], list[Review]]:
    found: dict[tuple[str, int], list[Review]] = defaultdict(list)
    for review in reviews:
        if review.verdict is not None:
            found[review.key].append(review)
    return found


def _compare(names: tuple[str, str], both: list[tuple[bool, bool]]) -> Agreement:
    n = len(both)
    equal = sum(one == other for one, other in both)
    first, second = (sum(pair[side] for pair in both) / n for side in (0, 1))
    chance = first * second + (1 - first) * (1 - second)
    # Both shares are 0 or 1 then; rounding can't hide it.
    kappa = None if chance == 1 else (equal / n - chance) / (1 - chance)
    return Agreement(names, n, equal, kappa)
