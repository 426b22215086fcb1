"""The attacks of this package that look at no reply and are no disguise of synthesis."""

from collections.abc import Iterator

from lockgate.redteam.attacks._channels import (
    operator,
    override,
    prefill,
    quoted_result,
    thoughts,
    tool_result,
)
from lockgate.redteam.attacks._contexts import haystack, shots
from lockgate.redteam.attacks._languages import in_language
from lockgate.redteam.attacks._shaped import shape_attacks
from lockgate.redteam.attacks._static import Make, Static
from lockgate.redteam.attacks._turns import crescendo, keyed, parts

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
