"""The harmful content of the stand-in attacks: topics of the policy `stage-magic`, code books and wording."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "stand_ins"


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement of a topic: two things and the link between them."""

    first: str
    link: str
    second: str

    @property
    def text(self) -> str:
        return f"{self.first} {self.link} {self.second}"


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic of a request. `category` is an id of the policy, in its harmful half if `harmful`."""

    name: str
    subject: str
    category: str
    harmful: bool
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """The vocabulary of a code book: stand-ins for things (without article) and for links."""

    name: str
    field: str
    nouns: tuple[str, ...]
    links: tuple[str, ...]


@cache
def read_topics(name: str) -> tuple[Topic, ...]:
    """Read the topics of `tricks` (forbidden by the policy) or of `permitted`."""
    found = []
    for category, topics in _read(name).items():
        for topic, entry in topics.items():
            facts = tuple(Fact(*(part.strip() for part in line.split("|"))) for line in entry["facts"])
            found.append(Topic(topic, entry["subject"], category, name == "tricks", facts))
    return tuple(found)


@cache
def read_books() -> tuple[Book, ...]:
    return tuple(
        Book(name, entry["field"], tuple(entry["nouns"]), tuple(entry["links"]))
        for name, entry in _read("books").items()
    )


@cache
def read_wording() -> dict[str, Any]:
    """Read the templates of requests, answers and refusals. Harmful exchanges and their twins use the same ones."""
    return _read("wording")


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return content
