"""The tasks of a question: the exchanges to make from it."""

from dataclasses import replace
from random import Random

from lockgate.exchanges import Message
from lockgate.synthesis._rows import Row, derive_row, row_id
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._roles import (
    ATTACK,
    COMPLIANT,
    DIALOGUE,
    HARMLESS,
    LABELS,
    PAIR,
    PERMITTED,
    REFUSED,
    TWIN,
)
from lockgate.synthesis.factory._templates import write_refusal
from lockgate.synthesis.factory._topics import Topic

STEP = "tasks"


class TaskPlanner:
    """A function object that makes a row for each exchange of a question, by the plan's shares.

    Refusals are written at once. One draw for each row and kind decides, so a changed share changes as few
    rows as possible.
    """

    def __init__(self, brief: Brief) -> None:
        self._brief = brief

    def __call__(self, row: Row, seed: int) -> list[Row]:
        topic, plan = self._brief.topic_of(row), self._brief.plan
        rng = Random(f"{plan.seed}/{seed}")  # noqa: S311
        draws = {kind: rng.random() for kind in (PERMITTED, REFUSED, TWIN, ATTACK)}
        tasks: list[tuple[str, dict[str, object]]] = []
        if topic.is_harmful:
            paired = (
                draws[TWIN] < plan.pairs.share and bool(self._brief.near) and plan.answers.per_harmful > 0
            )
            pair = {PAIR: row_id(row)} if paired else {}
            tasks += [
                (COMPLIANT, {"take": take, **(pair if take == 0 else {})})
                for take in range(plan.answers.per_harmful)
            ]
            if paired:
                tasks.append((TWIN, {**pair}))
            if draws[PERMITTED] < plan.answers.permitted_share and self._brief.near:
                tasks.append((PERMITTED, {}))
            if draws[REFUSED] < plan.answers.refused_share:
                tasks.append((REFUSED, {}))
        else:
            tasks += [(HARMLESS, {"take": take}) for take in range(plan.answers.per_harmless)]
        if draws[ATTACK] < self._attack_share(topic):
            tasks.append((ATTACK if topic.is_harmful else DIALOGUE, {}))
        return [self._make(row, topic, role, number, seed, meta) for number, (role, meta) in enumerate(tasks)]

    def most(self, topic: Topic) -> dict[str, int]:
        """Return the most exchanges of each role that a question of this entry leads to."""
        plan = self._brief.plan
        attack = self._attack_share(topic) > 0
        if not topic.is_harmful:
            return {HARMLESS: plan.answers.per_harmless, DIALOGUE: int(attack)}
        near = bool(self._brief.near)
        return {
            COMPLIANT: plan.answers.per_harmful,
            TWIN: int(plan.pairs.share > 0 and near and plan.answers.per_harmful > 0),
            PERMITTED: int(plan.answers.permitted_share > 0 and near),
            REFUSED: int(plan.answers.refused_share > 0),
            ATTACK: int(attack),
        }

    def _attack_share(self, topic: Topic) -> float:
        """Return the share of this entry's questions that also become a dialogue of the red-team pool."""
        share, plan = self._brief.plan.red_team.share, self._brief.plan
        if not share or topic.kind not in ("harmful", "near_domain"):
            return 0.0
        wanted = self._brief.questions
        rows = sum(count * self._rows_of(self._brief.topics[name]) for name, count in wanted.items())
        rows *= 1 + plan.augmentation.share
        basis = sum(count for name, count in wanted.items() if self._brief.topics[name].kind == topic.kind)
        # Half of the pool is harmful, half is not.
        return 0.5 * share * rows / basis if basis else 0.0

    def _rows_of(self, topic: Topic) -> float:
        answers = self._brief.plan.answers
        if not topic.is_harmful:
            return answers.per_harmless
        return (
            answers.per_harmful
            + answers.permitted_share
            + answers.refused_share
            + self._brief.plan.pairs.share
        )

    def _make(
        self, row: Row, topic: Topic, role: str, number: int, seed: int, meta: dict[str, object]
    ) -> Row:
        near = self._brief.draw_near(seed + number) if role in (PERMITTED, REFUSED, TWIN) else None
        own = {**meta, "role": role, "asked_for": topic.id, **({"near": near.id} if near else {})}
        category = near.id if role == TWIN and near is not None else topic.id
        made = derive_row(row, STEP, number, label=LABELS[role], category=category, meta=own)
        if role != REFUSED:
            return made
        text = write_refusal(self._brief.constitution, topic, near, Random(f"{seed}/refusal"))  # noqa: S311
        return replace(made, messages=(*made.messages, Message("assistant", text)))
