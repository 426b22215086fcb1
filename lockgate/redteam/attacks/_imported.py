"""Attacks that others have published: prompts with a place for the question, or prompts for one question."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lockgate.exchanges import Message
from lockgate.redteam._attempts import Attempt, Play
from lockgate.redteam._queries import Query
from lockgate.redteam.attacks._static import draws

# Stands for the question in the text of a message. It is no valid character, so no file has it.
SLOT = "\ufdd0"
_PLACES = re.compile(r"\{(?:query|goal)\}|\[INSERT PROMPT HERE\]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation from a file.

    Attributes:
        messages: the turns, with `SLOT` where the question stands.
        goal: the question that it was made for, or the id of that question; None if it is for any.
        place: where it stands in the file, as `line 3`.
    """

    messages: tuple[Message, ...]
    goal: str | None
    place: str

    @property
    def fits_all(self) -> bool:
        """Whether it has a place for the question, and can be sent."""
        return self.messages[-1].role != "system" and any(SLOT in m.content for m in self.messages)

    def fits(self, query: Query) -> bool:
        """Return whether it was made for this query."""
        return self.goal is not None and _same(self.goal) in (_same(query.text), _same(query.id))

    def filled(self, question: str) -> tuple[Message, ...]:
        """Return the conversation with a question in its places."""
        return tuple(replace(m, content=m.content.replace(SLOT, question)) for m in self.messages)


class Imported:
    """The prompts of one method in a file: those made for a query first, then those for any, in random order.

    A query that none of them fits has no attempts. Answers are taken to be plain, whatever is asked for.
    """

    adaptive = False

    def __init__(self, layout: str, method: str, prompts: Sequence[Prompt], tries: int | None = None) -> None:
        """Make the attack.

        Args:
            tries: most attempts (default: all prompts).
        """
        self.name = self.family = f"{layout}/{method}"
        self.prompts = tuple(prompts)
        self._tries = tries

    def play(self, query: Query, seed: int) -> Play:
        rng = draws(seed, self.name)
        own = [prompt for prompt in self.prompts if prompt.fits(query)]
        others = [prompt for prompt in self.prompts if prompt.fits_all and prompt not in own]
        chosen = [*own, *rng.sample(others, len(others))]
        for prompt in chosen[: self._tries]:
            facts = {"place": prompt.place, "made_for_it": prompt in own}
            yield Attempt(prompt.filled(query.text), rng.choice(query.answers), facts=facts)


def with_slots(messages: Sequence[Message], question: str | None, append: bool) -> tuple[Message, ...]:
    """Return messages with `SLOT` at placeholders, or at their question, or (with `append`) at the end."""
    patterns = [_PLACES]
    if question is not None and question.strip():
        patterns.append(re.compile(rf"(?<!\w){re.escape(question.strip())}(?!\w)", re.IGNORECASE))
    for pattern in patterns:
        found = tuple(replace(m, content=pattern.sub(SLOT, m.content)) for m in messages)
        if any(SLOT in message.content for message in found):
            return found
    if not append or any(SLOT in m.content for m in messages):
        return tuple(messages)
    if messages[-1].role == "system":
        return (*messages, Message("user", SLOT))
    if messages[-1].role == "user":
        return (*messages[:-1], replace(messages[-1], content=f"{messages[-1].content}\n\n{SLOT}"))
    return tuple(messages)


def without_doubles(prompts: Iterator[Prompt]) -> Iterator[Prompt]:
    """Yield prompts without those that say the same: templates of one text, prompts of one text and goal."""
    seen = set()
    for prompt in prompts:
        # Messages with tool calls can't be hashed as a whole.
        texts = tuple((message.role, message.content) for message in prompt.messages)
        key = (texts, None if prompt.fits_all else prompt.goal)
        if key not in seen:
            seen.add(key)
            yield prompt


def _same(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".?! ")
