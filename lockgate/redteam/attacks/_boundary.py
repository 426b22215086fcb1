"""The one-bit attack: of a reply it only sees whether the guard stopped it.

It follows the idea of Boundary Point Jailbreaking (arXiv 2602.15001): find how much can be shown before the
guard stops, since only there a reply says much about a small change; keep changes that get a little further.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lockgate.redteam._attempts import Attempt, Play
from lockgate.redteam._queries import Query
from lockgate.redteam.attacks._search import boundary, limited, passes
from lockgate.redteam.attacks._static import draws
from lockgate.redteam.attacks._variants import Variant

_PATIENCE = 8
# What shows nothing must pass, or there is no boundary to find. A reply by chance must not end the search.
_HIDDEN_TRIALS = 3


class OneBit:
    """A search for a variant that shows as much as can be, by bisection and then by a population of variants.

    It begins with a variant that shows nothing and one that shows all. Between them it finds the boundary in
    about `log2(words)` trials. Then it changes how words are written and raises the number of shown words,
    in steps that grow with success.
    """

    family = "one-bit"
    adaptive = True

    def __init__(self, budget: int = 400, lead: int = 1, population: int = 6) -> None:
        """Make the attack.

        Args:
            budget: most attempts.
            lead: votes by which an outcome must lead. More than one is for guards that are random.
            population: variants that are kept.
        """
        self.name = "one-bit" if lead == 1 else f"one-bit-lead-{lead}"
        self._budget = budget
        self._lead = lead
        self._population = population

    def play(self, query: Query, seed: int) -> Play:
        return limited(self._search(query, draws(seed, self.name)), self._budget)

    def _search(self, query: Query, rng: Random) -> Play:
        variant = Variant.of(query, rng)
        most = len(variant.order)

        def bare(shown: int, _number: int) -> Attempt:
            return variant.attempt(shown, rng)

        if (yield from passes(_trial(variant, most, rng), self._lead)):
            yield from self._climb(_Kept(most, variant), most, rng)
            return
        for _ in range(_HIDDEN_TRIALS):
            if (yield from passes(_trial(variant, 0, rng), self._lead)):
                level = yield from boundary(bare, 0, most, self._lead)
                yield from self._climb(_Kept(level, variant), most, rng)

    def _climb(self, first: "_Kept", most: int, rng: Random) -> Play:
        kept, step = [first], 1
        while True:
            parent = rng.choice(kept)
            target = min(most, parent.level + step)
            child = parent.variant.changed(target, rng)
            if (yield from passes(_trial(child, target, rng), self._lead)):
                parent.failed = 0
                kept = sorted([*kept, _Kept(target, child)], key=lambda one: -one.level)[: self._population]
                step = min(2 * step, most)
            else:
                step = max(1, step // 2)
                parent.failed += 1
                if parent.failed == _PATIENCE:
                    # It may have passed by luck, or lead nowhere.
                    parent.level, parent.failed = max(0, parent.level - 1), 0


@dataclass(slots=True)
class _Kept:
    """A variant, the number of words with which it has passed, and the children in a row that did not."""

    level: int
    variant: Variant
    failed: int = 0


def _trial(variant: Variant, shown: int, rng: Random) -> Callable[[int], Attempt]:
    return lambda _number: variant.attempt(shown, rng)
