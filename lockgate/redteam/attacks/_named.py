"""Attacks by name and family."""

from collections.abc import Sequence

from lockgate.errors import ConfigError
from lockgate.redteam._attempts import Attack
from lockgate.redteam.attacks._augmented import Composed, Plain, single_attacks
from lockgate.redteam.attacks._catalogue import adaptive_attacks, fixed_attacks
from lockgate.synthesis import Generator
from lockgate.synthesis.augmentations import select_augmentations


def all_attacks(depth: int = 3, budget: int = 20, attacker: Generator | None = None) -> list[Attack]:
    """Return all attacks, the plain question first, and those with an attacker model if there is one.

    Args:
        depth: most disguises in a composed attack.
        budget: most attempts of an attack that searches.
        attacker: the attacker model.
    """
    disguises = select_augmentations()
    composed = [Composed(disguises, number) for number in range(2, depth + 1)]
    return [
        Plain(),
        *single_attacks(disguises),
        *composed,
        *fixed_attacks(),
        *adaptive_attacks(budget, attacker),
    ]


def attacks_named(
    names: Sequence[str], depth: int = 3, budget: int = 20, attacker: Generator | None = None
) -> list[Attack]:
    """Return the attacks with these names or of these families; `all` stands for all. Plain is always in it.

    Raises:
        ConfigError: there is no such attack or family.
    """
    known = all_attacks(depth, budget, attacker)
    if "all" in names:
        return known
    there = {attack.name for attack in known} | {attack.family for attack in known}
    if unknown := sorted(set(names) - there):
        families = ", ".join(sorted({attack.family for attack in known}))
        raise ConfigError(f"attacks: unknown {', '.join(unknown)}; expected names or some of {families}")
    wanted = {"plain", *names}
    return [attack for attack in known if attack.name in wanted or attack.family in wanted]
