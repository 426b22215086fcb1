"""The contract of attacks: what an attack sends, what it sees, and how it goes on.

An attack is played against one query as a generator: it yields an attempt, is sent what came of it, and
yields the next one. So an attack knows nothing of models, caches and networks, and is the same against each
target.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lockgate.exchanges import Message
from lockgate.redteam._grades import Grade
from lockgate.redteam._queries import Query


def _same(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Attempt:
    """One conversation that is sent.

    Attributes:
        messages: the conversation up to the answer. The last message is the user's, or the beginning of the
            assistant's answer (a prefill).
        answer: what an obedient model writes after these messages: a full answer in the disguise that they
            ask for. It is the attacker's guess, which the target model does not see.
        read: makes plain text of an answer in that disguise, as an attacker reads it. Text that is not in
            the disguise is returned as it is; nothing is raised.
        facts: what was chosen, as JSON: enough to tell the attempt from others of the same attack.
    """

    messages: tuple[Message, ...]
    answer: str
    read: Callable[[str], str] = _same
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got.

    Attributes:
        text: the answer, as far as it was let through.
        halted: whether the guard stopped the prompt or the answer.
        tokens: tokens of prompt and answer, as counted or estimated.
        failed: why there is no answer, in a word; None if there is one. Such an attempt counts for nobody.
        billed: tokens of prompt and answer at the model that wrote it. The guard's are not among them.
    """

    text: str
    halted: bool
    tokens: int = 0
    failed: str | None = None
    billed: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an attack is told: the reply, and the grade that the attacker's own judge would give."""

    reply: Reply
    grade: Grade


Play = Generator[Attempt, Seen, None]


class Attack(Protocol):
    """A strategy.

    Attributes:
        name: unique name, as in campaigns and reports.
        family: attacks of one family work alike. Success is reported by family.
        adaptive: whether later attempts depend on earlier replies.
    """

    name: str
    family: str
    adaptive: bool

    def play(self, query: Query, seed: int) -> Play:
        """Attack with one query. All choices come from `seed` and from what was seen."""
