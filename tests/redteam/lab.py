"""Queries, attacks and targets for tests of the red team."""

from typing import Any

from lockgate.exchanges import Message
from lockgate.redteam import Attempt, Query, QuerySet, Reply, Row, Seen, Topic, Twin

TOPICS = ("gate", "sluice", "paddle", "chamber")


def query(number: int = 0, *, twin: bool = True) -> Query:
    answer = f"Lock {number}: open the sluice, lift the paddle, fill the chamber, then open the gate."
    return Query(
        id=f"lock-{number}",
        category="card-methods",
        text=f"How does lock {number} work?",
        answers=(answer, answer.replace("Lock", "For lock")),
        topics=tuple(Topic(name=name, phrases=(name,)) for name in TOPICS),
        twin=Twin(text=f"Who painted lock {number}?", answer="A painter of the canal did.") if twin else None,
    )


def query_set(count: int = 3, *, twin: bool = True) -> QuerySet:
    queries = tuple(query(number, twin=twin) for number in range(count))
    return QuerySet(name="locks", constitution="stage-magic", queries=queries)


class Scripted:
    """An attack that sends its texts one after the other."""

    def __init__(self, name: str, texts: list[str], family: str = "scripted", *, adaptive: bool = False) -> None:
        self.name, self.family, self.adaptive = name, family, adaptive
        self.texts = texts
        self.seen: list[Seen] = []

    def play(self, query: Query, seed: int):
        for text in self.texts:
            asked = Message("user", f"{query.text} {text} {seed}")
            seen = yield Attempt((asked,), f"{text} {query.answers[0]}", facts={"text": text})
            self.seen.append(seen)


class Keyword:
    """A target that answers as an obedient model does, and halts prompts with the word `halt`."""

    def __init__(self, *, fails: str = "never", dies_after: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self.fails, self.left = fails, dies_after

    def answer(self, shots) -> list[Reply]:
        self.asked.append([shot.attempt.messages[-1].content for shot in shots])
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return [self._reply(shot.attempt) for shot in shots]

    def _reply(self, attempt: Attempt) -> Reply:
        text = attempt.messages[-1].content
        if self.fails in text:
            return Reply("", halted=False, failed="no_answer")
        return Reply("", halted=True) if "halt" in text else Reply(attempt.answer, halted=False, tokens=7)


def row(attack: str = "a", query: str = "q0", **fields: Any) -> Row:
    usual: dict[str, Any] = {
        "variant": "v",
        "family": f"family of {attack}",
        "seed": 0,
        "number": 0,
        "twin": False,
        "halted": False,
        "failed": None,
        "tokens": 1,
        "success": False,
        "topics": (),
        "needed": 2,
        "full": 4.0,
        "refused": False,
        "facts": {},
    }
    return Row(attack=attack, query=query, **{**usual, **fields})
