"""What the steps of the factory share: the policy, the plan, and how rows say what they are."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.synthesis._rows import Row
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._source import count_questions
from lockgate.synthesis.factory._topics import Topic, Vocabulary, list_topics

# Roles of a row that is on its way to an exchange.
COMPLIANT, PERMITTED, REFUSED, TWIN, HARMLESS = "compliant", "permitted", "refused", "twin", "harmless"
ATTACK, DIALOGUE = "attack", "dialogue"
LABELS = {COMPLIANT: 1.0, PERMITTED: 0.0, REFUSED: 0.0, TWIN: 0.0, HARMLESS: 0.0, ATTACK: 1.0, DIALOGUE: 0.0}


@dataclass(frozen=True)
class Kit:
    """Constitution and plan with what is derived from them. It can be sent to another process."""

    constitution: Constitution
    plan: FactoryPlan
    topics: dict[str, Topic] = field(init=False)
    vocabulary: Vocabulary = field(init=False)
    near: tuple[Topic, ...] = field(init=False)
    questions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        topics = list_topics(self.constitution)
        object.__setattr__(self, "topics", {topic.id: topic for topic in topics})
        object.__setattr__(self, "vocabulary", Vocabulary(topics))
        object.__setattr__(self, "near", tuple(t for t in topics if t.kind == "near_domain"))
        object.__setattr__(self, "questions", count_questions(self.constitution, self.plan))

    def topic_of(self, row: Row) -> Topic:
        """The entry that the row's question was made for, also where its category is another one."""
        return self.topics[str(row.meta.get("asked_for") or row.category)]

    def draw_near(self, seed: int) -> Topic | None:
        """A near-domain entry, or None where the constitution has none."""
        return Random(f"{seed}/near").choice(self.near) if self.near else None  # noqa: S311

    def config(self, *sections: str) -> dict[str, Any]:
        """For a block's configuration: the policy and these sections of the plan."""
        own = {name: getattr(self.plan, name).model_dump() for name in sections}
        return {"constitution": self.constitution.sha256, "seed": self.plan.seed, **own}


def role_of(row: Row) -> str:
    """What the row is to become."""
    return str(row.meta["role"])


def question_of(row: Row) -> str:
    """The last user message."""
    return next((m.content for m in reversed(row.messages) if m.role == "user"), "")


def context_of(row: Row) -> str:
    """What stands before the last user message, with roles, as one text."""
    asked = max((place for place, m in enumerate(row.messages) if m.role == "user"), default=0)
    return "\n".join(f"{m.role}: {m.content}" for m in row.messages[:asked])


def answer_of(row: Row) -> str:
    """The answer, or nothing."""
    return "" if row.is_prompt_only else row.messages[-1].content
