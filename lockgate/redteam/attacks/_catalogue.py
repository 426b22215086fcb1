"""The attacks of this package that are no disguise of synthesis, by kind."""

from collections.abc import Iterator

from lockgate.redteam._attempts import Attack
from lockgate.redteam.attacks._best_of_n import BestOfN
from lockgate.redteam.attacks._boundary import OneBit
from lockgate.redteam.attacks._channels import (
    operator,
    override,
    prefill,
    quoted_result,
    thoughts,
    tool_result,
)
from lockgate.redteam.attacks._contexts import haystack, shots
from lockgate.redteam.attacks._drip import Drip
from lockgate.redteam.attacks._languages import in_language
from lockgate.redteam.attacks._pretexts import PRETEXTS, pretext
from lockgate.redteam.attacks._refined import Pair, Tap
from lockgate.redteam.attacks._shaped import shape_attacks
from lockgate.redteam.attacks._spacing import Spacing
from lockgate.redteam.attacks._staged import Staged
from lockgate.redteam.attacks._static import Make, Static
from lockgate.redteam.attacks._turns import crescendo, keyed, parts
from lockgate.synthesis import Generator

_LENGTHS = (2000, 8000)
_PLACES = {"start": 0.0, "middle": 0.5, "end": 1.0}
_MAKERS: dict[str, tuple[str, Make]] = {
    "crescendo": ("crescendo", crescendo),
    "parts-over-turns": ("parts-over-turns", parts),
    "key-before": ("key-before", keyed),
    "answered-shots-12": ("answered-shots", shots(12)),
    "answered-shots-48": ("answered-shots", shots(48)),
    "near-shots-16": ("answered-shots", shots(16, near=True)),
    "prefill": ("prefill", prefill),
    "operator-imitated": ("operator", override),
    "operator-allows": ("operator", operator),
    "tool-result": ("tool-result", tool_result),
    "quoted-result": ("tool-result", quoted_result),
    "thoughts": ("thoughts", thoughts),
    "other-language": ("other-language", in_language),
    **{kind: (kind, pretext(kind)) for kind in PRETEXTS},
    **{
        f"haystack-{characters}-{where}": ("haystack", haystack(characters, place))
        for characters in _LENGTHS
        for where, place in _PLACES.items()
    },
}


def fixed_attacks(tries: int = 1) -> Iterator[Static]:
    """Yield the attacks with fixed attempts. No family of theirs is one that synthesis makes data of.

    Args:
        tries: attempts of each attack, each in another wording.
    """
    for name, (family, make) in _MAKERS.items():
        yield Static(name, family, make, tries)
    yield from shape_attacks(tries)


def adaptive_attacks(budget: int, attacker: Generator | None = None) -> Iterator[Attack]:
    """Yield the attacks that search, with attacker models only if there is a generator.

    Args:
        budget: most attempts of each.
        attacker: the attacker model of PAIR and TAP.
    """
    yield BestOfN(budget)
    yield OneBit(budget)
    yield OneBit(budget, lead=2)
    yield Staged(budget)
    yield Spacing(budget)
    yield Spacing(budget, grid=True)
    yield Drip(budget)
    if attacker is not None:
        yield Pair(attacker, budget=budget)
        yield Tap(attacker, budget=budget)
