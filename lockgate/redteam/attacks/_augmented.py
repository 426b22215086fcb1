"""Attacks of one try: the disguises of synthesis, alone and chained."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lockgate.errors import SynthesisError
from lockgate.exchanges import Exchange, Message
from lockgate.redteam._attempts import Attempt, Play
from lockgate.redteam._queries import Query
from lockgate.synthesis.augmentations import Augmentation, apply_chain, draw_chain, undo_all


class Augmented:
    """A chain of disguises. The answer is asked for in the same disguise where the disguise has one."""

    adaptive = False

    def __init__(self, name: str, family: str, chain: Sequence[Augmentation], tries: int = 1) -> None:
        self.name = name
        self.family = family
        self._chain = tuple(chain)
        self._tries = tries

    def play(self, query: Query, seed: int) -> Play:
        for number in range(self._tries):
            yield attempt_of(query, self._chain, seed + 1000 * number)


class Composed:
    """Another chain of disguises in each try, of different families."""

    adaptive = False

    def __init__(self, choices: Sequence[Augmentation], depth: int, tries: int = 1) -> None:
        self.name = f"composed-{depth}"
        self.family = "composed"
        self._choices = tuple(choices)
        self._depth = depth
        self._tries = tries

    def play(self, query: Query, seed: int) -> Play:
        for number in range(self._tries):
            own = seed + 1000 * number
            yield attempt_of(query, draw_chain(self._choices, own, max_depth=self._depth), own)


class Plain:
    """The question as it is: what other attacks are compared with."""

    name = "plain"
    family = "plain"
    adaptive = False

    def play(self, query: Query, seed: int) -> Play:
        yield attempt_of(query, (), seed)


def single_attacks(choices: Sequence[Augmentation]) -> Iterator[Augmented]:
    """Yield one attack for each disguise."""
    for one in choices:
        yield Augmented(one.name, one.family, (one,))


def attempt_of(query: Query, chain: Sequence[Augmentation], seed: int) -> Attempt:
    """Return the attempt that asks a query in a chain of disguises."""
    # The attacker picks the words of a code book from an answer that it expects.
    expected = query.answers[seed % len(query.answers)]
    exchange = Exchange((Message("user", query.text), Message("assistant", expected)))
    asked = apply_chain(exchange, chain, seed, max_depth=max(1, len(chain)))
    meta = {**asked.meta, "augmentations": [_open(record) for record in asked.meta.get("augmentations", ())]}

    def read(answer: str) -> str:
        whole = Exchange((*asked.messages[:-1], Message("assistant", answer)), meta=meta)
        try:
            return undo_all(whole).messages[-1].content
        except (SynthesisError, ValueError, KeyError, IndexError):
            return answer  # cut within the disguise: it is read as it is

    facts = {"chain": [one.name for one in chain], "seed": seed}
    return Attempt(asked.messages[:-1], asked.messages[-1].content, read, facts)


def _open(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a disguise for answers of any length. What stands before an answer stays."""
    parameters = record["parameters"]
    if "answer_span" in parameters:
        parameters = {**parameters, "answer_span": None}
    return {**record, "parameters": parameters}
