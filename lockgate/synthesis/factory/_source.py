"""What a run begins with: requests for questions, the user's own prompts, and composed questions."""

import os
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from random import Random
from typing import Any

from lockgate.constitution import Constitution
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, Message, read_exchanges
from lockgate.synthesis.factory._phrases import compose_questions
from lockgate.synthesis.factory._plan import FactoryPlan
from lockgate.synthesis.factory._topics import KINDS, Topic, list_topics

# Where a row stands on its way: a request for questions, a question, or a task that ends as an exchange.
ASK, QUESTION = "ask", "question"
FROM_GENERATOR, FROM_FILE, FROM_TEMPLATE = "generator", "file", "template"


def count_questions(constitution: Constitution, plan: FactoryPlan) -> dict[str, int]:
    """Questions wanted for each entry, by id; smaller alike where the plan's `answers.most` asks for it.

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
    """Lists to ask for when so many questions are wanted."""
    return ceil(
        questions * (1 - plan.queries.composed_share) * plan.queries.surplus / plan.queries.per_request
    )


def answers_per_question(topic: Topic, plan: FactoryPlan) -> float:
    """Generated answers that a question of this entry leads to, on average."""
    if not topic.is_harmful:
        return plan.answers.per_harmless
    return plan.answers.per_harmful + plan.answers.permitted_share + plan.pairs.share


def _share_of(kind: str, place: int, members: int, plan: FactoryPlan) -> int:
    if kind == "harmful":
        return plan.queries.harmful_per_category
    total = int(getattr(plan.queries, kind))
    return total // members + (place < total % members)


def source_rows(
    constitution: Constitution, plan: FactoryPlan, seeds: Sequence[str | os.PathLike[str]] = ()
) -> Iterator[Exchange]:
    """Rows to begin with: the user's prompts, then requests for questions, then composed questions.

    The order decides which of two near-duplicates stays.

    Raises:
        ConfigError: a prompt's category is none of the constitution's.
    """
    topics = list_topics(constitution)
    counts = count_questions(constitution, plan)
    for path in seeds:
        yield from _read_seeds(path, {topic.id: topic for topic in topics})
    for topic in topics:
        for number in range(count_lists(counts[topic.id], plan)):
            focus = topic.examples[number % len(topic.examples)] if topic.examples else topic.title
            text = f"{topic.title}: {focus}"
            yield _row(topic, text, ASK, {"number": number, "focus": focus})
    if plan.queries.templates == "fill":
        for topic in topics:
            rng = Random(f"{plan.seed}/templates/{topic.id}")  # noqa: S311
            # Some fall to the filters, so that a few more are made than could be needed.
            for composed in compose_questions(topic, 2 * counts[topic.id], rng):
                origin = {"origin": FROM_TEMPLATE, "phrase": composed.phrase}
                yield _row(topic, composed.text, QUESTION, origin)


def _read_seeds(path: str | os.PathLike[str], topics: Mapping[str, Topic]) -> Iterator[Exchange]:
    for number, seed in enumerate(read_exchanges(path), 1):
        topic = topics.get(seed.category or "")
        if topic is None:
            raise ConfigError(
                f"{os.fspath(path)}: row {number}: category: expected an id of the constitution; a prompt "
                "without one can't be labelled"
            )
        asked = [place for place, message in enumerate(seed.messages) if message.role == "user"]
        if not asked or not seed.messages[asked[-1]].content.strip():
            raise ConfigError(f"{os.fspath(path)}: row {number}: no user message with text")
        row = _row(topic, "", QUESTION, {"origin": FROM_FILE})
        yield Exchange(seed.messages[: asked[-1] + 1], None, topic.id, "file", row.meta)


def _row(topic: Topic, text: str, role: str, meta: Mapping[str, Any]) -> Exchange:
    own = {"kind": topic.kind, "role": role, **meta}
    return Exchange((Message("user", text),), None, topic.id, "synthesis", own)
