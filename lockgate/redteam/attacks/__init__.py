"""Attacks by name and family. `attacks_named` gives those of a campaign."""

from lockgate.redteam.attacks._catalogue import adaptive_attacks, fixed_attacks
from lockgate.redteam.attacks._import import LAYOUTS, read_attacks
from lockgate.redteam.attacks._imported import Imported
from lockgate.redteam.attacks._named import all_attacks, attacks_named

__all__ = [
    "LAYOUTS",
    "Imported",
    "adaptive_attacks",
    "all_attacks",
    "attacks_named",
    "fixed_attacks",
    "read_attacks",
]
