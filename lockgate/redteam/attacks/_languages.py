"""Attacks in other languages, for queries that carry translations."""

from random import Random

from lockgate.redteam._attempts import Attempt
from lockgate.redteam._queries import Query
from lockgate.redteam.attacks._static import asked


def in_language(query: Query, rng: Random) -> Attempt | None:
    """Return the question in one of its other languages, or None if it has none.

    The answer is in that language too if the query has it. It is read line by line, by one who has a
    translator. A line that is cut is not read.
    """
    if not query.translations:
        return None
    chosen = rng.choice(query.translations)
    facts = {"language": chosen.language, "answer": chosen.answer is not None}
    if chosen.answer is None:
        return Attempt(asked(chosen.text), query.answers[0], facts=facts)
    lines = dict(zip(chosen.answer.split("\n"), query.answers[0].split("\n"), strict=True))

    def read(text: str) -> str:
        return "\n".join(lines.get(line, line) for line in text.split("\n"))

    return Attempt(asked(chosen.text), chosen.answer, read, facts)
