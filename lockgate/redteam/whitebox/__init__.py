"""Attacks by those who know a guard's weights: words and embeddings that are found by gradients.

They show what the worst attacker can do, and what is left of it on guards whose weights he does not know.
"""

from lockgate.redteam.whitebox._attack import Transferred, attack_guard, exchange_of, transfer
from lockgate.redteam.whitebox._found import Found, summarise_found
from lockgate.redteam.whitebox._options import AttackOptions, Space, Target
from lockgate.redteam.whitebox._play import FoundWords

__all__ = [
    "AttackOptions",
    "Found",
    "FoundWords",
    "Space",
    "Target",
    "Transferred",
    "attack_guard",
    "exchange_of",
    "summarise_found",
    "transfer",
]
