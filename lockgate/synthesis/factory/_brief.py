"""The brief of a run: the policy, the plan, and the number of questions for each entry."""

from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.errors import ConfigError
from lockgate.synthesis._rows import Row
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._topics import KINDS, Topic, Vocabulary, list_topics


@dataclass(frozen=True)
class Brief:
    """Constitution and plan, with values derived from them. It can be sent to another process."""

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
        """Return the entry that the row's question was made for, even if its category is another one."""
        return self.topics[str(row.meta.get("asked_for") or row.category)]

    def draw_near(self, seed: int) -> Topic | None:
        """Draw a near-domain entry, or None if the constitution has none."""
        return Random(f"{seed}/near").choice(self.near) if self.near else None  # noqa: S311

    def config(self, *sections: str) -> dict[str, Any]:
        """Return the policy and some sections of the plan, for a step's configuration."""
        own = {name: getattr(self.plan, name).model_dump() for name in sections}
        return {"constitution": self.constitution.sha256, "seed": self.plan.seed, **own}


def count_questions(constitution: Constitution, plan: FactoryPlan) -> dict[str, int]:
    """Return the number of questions for each entry, by id. `answers.most` shrinks all of them alike.

    Raises:
        ConfigError: `queries.by_id` names an id that the constitution doesn't have.
    """
    topics = list_topics(constitution)
    if unknown := set(plan.queries.by_id) - {topic.id for topic in topics}:
        raise ConfigError(f"queries.by_id: {', '.join(sorted(unknown))}: no such id in {constitution.name}")
    wanted: dict[str, int] = {}
    for kind in KINDS:
        members = [topic.id for topic in topics if topic.kind == kind]
        each = {name: _share_of(kind, place, len(members), plan) for place, name in enumerate(members)}
        wanted |= {name: plan.queries.by_id.get(name, count) for name, count in each.items()}
    answers = sum(wanted[topic.id] * answers_per_question(topic, plan) for topic in topics)
    most = plan.answers.most
    if most is None or answers <= most:
        return wanted
    return {name: max(1, int(count * most / answers)) if count else 0 for name, count in wanted.items()}


def count_lists(questions: int, plan: FactoryPlan) -> int:
    """Return the number of lists to ask for, to get this number of questions."""
    return ceil(
        questions * (1 - plan.queries.composed_share) * plan.queries.surplus / plan.queries.per_request
    )


def answers_per_question(topic: Topic, plan: FactoryPlan) -> float:
    """Return the mean number of generated answers to a question of this entry."""
    if not topic.is_harmful:
        return plan.answers.per_harmless
    return plan.answers.per_harmful + plan.answers.permitted_share + plan.pairs.share


def _share_of(kind: str, place: int, members: int, plan: FactoryPlan) -> int:
    if kind == "harmful":
        return plan.queries.harmful_per_category
    total = int(getattr(plan.queries, kind))
    return total // members + (place < total % members)
