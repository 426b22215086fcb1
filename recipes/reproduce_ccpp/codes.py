"""Obfuscation keyed by the prompt: the prompt holds a code book and the answer uses its words (CC++ section 2).

Every exchange has new stand-ins, so a code word means nothing without the prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from recipes.reproduce_ccpp.topics import Book, Fact

# own: the list holds the words of one topic, so the prompt shows it. named: it holds the words of a forbidden and a
# permitted topic, and the request names one of the two in code. open: the same, and the request does not say which.
LEVELS = ("own", "named", "open")


@dataclass(frozen=True, slots=True)
class Code:
    """Stand-ins by plain term, for nouns without article and for links."""

    nouns: dict[str, str]
    links: dict[str, str]

    @classmethod
    def deal(cls, book: Book, facts: Sequence[Fact], subjects: Sequence[str], rng: Random) -> "Code":
        """Give each term of the facts, and each subject, its own stand-in."""
        things = list(
            dict.fromkeys([t for fact in facts for t in (fact.first, fact.second)] + list(subjects))
        )
        links = list(dict.fromkeys(fact.link for fact in facts))
        return cls(
            dict(zip(things, rng.sample(book.nouns, len(things)), strict=True)),
            dict(zip(links, rng.sample(book.links, len(links)), strict=True)),
        )

    def encode(self, fact: Fact) -> str:
        return f"the {self.nouns[fact.first]} {self.links[fact.link]} the {self.nouns[fact.second]}"

    def list_terms(self, facts: Sequence[Fact], subjects: Sequence[str], style: int, rng: Random) -> str:
        """Return the list of terms that the prompt shows, for these facts and subjects, in random order."""
        wanted = {term for fact in facts for term in (fact.first, fact.second)} | set(subjects)
        links = {fact.link for fact in facts}
        rows = [(code, term) for term, code in self.nouns.items() if term in wanted]
        rows += [(code, term) for term, code in self.links.items() if term in links]
        rng.shuffle(rows)
        return TABLES[style](rows)


def _equations(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{code} = {term}" for code, term in rows)


def _arrows(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{term} -> {code}" for code, term in rows)


def _sentences(rows: Sequence[tuple[str, str]]) -> str:
    return "Say " + "; ".join(f"{code} for {term}" for code, term in rows) + "."


def _markdown(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| say | mean |", "|---|---|", *(f"| {code} | {term} |" for code, term in rows)])


def _mapping(rows: Sequence[tuple[str, str]]) -> str:
    return json.dumps(dict(rows), indent=0)


TABLES = (_equations, _arrows, _sentences, _markdown, _mapping)
