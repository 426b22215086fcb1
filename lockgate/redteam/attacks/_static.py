"""Attacks whose attempts are all fixed beforehand by the query and the seed."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from lockgate.exchanges import Message
from lockgate.redteam._attempts import Attempt, Play
from lockgate.redteam._grades import Rubric
from lockgate.redteam._queries import Query

Frame = Callable[[Query, Random], Attempt]
Make = Callable[[Query, Random], Attempt | None]


class Static:
    """An attack that looks at no reply. Each try draws another wording.

    `make` returns None for a query that the attack can't be made of; it then has no attempts.
    """

    adaptive = False

    def __init__(self, name: str, family: str, make: Make, tries: int = 1) -> None:
        self.name = name
        self.family = family
        self._make = make
        self._tries = tries

    def play(self, query: Query, seed: int) -> Play:
        for number in range(self._tries):
            own = seed + 1000 * number
            attempt = self._make(query, draws(own, self.name))
            if attempt is None:
                return
            yield replace(attempt, facts={**attempt.facts, "seed": own})


def draws(seed: int, name: str) -> Random:
    """Return the source of an attack's choices. Attacks with one seed choose independently."""
    return Random(f"{seed}/{name}")  # noqa: S311


def asked(text: str) -> tuple[Message, ...]:
    """Return a conversation of one message."""
    return (Message("user", text),)


def gist(query: Query) -> str:
    """Return a query's topics in a few words each, a line for each topic."""
    # Of words with alternatives the first. The small words make a sentence of them.
    return "\n".join(
        " ".join(["it is the", *(word.split("|")[0] for word in topic.phrases[0].lower().split())])
        for topic in Rubric.of(query).topics
    )
