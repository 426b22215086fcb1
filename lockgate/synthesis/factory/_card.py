"""The card of a data set: what is in it, what was dropped and why, what it was made with; no row's text."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from lockgate.synthesis._pipeline import PipelineResult
from lockgate.synthesis._rows import REJECTED, Row
from lockgate.synthesis.augmentations import exchange_families
from lockgate.synthesis.factory._kit import COMPLIANT, Kit, answer_of, role_of
from lockgate.synthesis.factory._questions import ASK_STEP
from lockgate.synthesis.factory._source import count_lists
from lockgate.synthesis.factory._steps import ANSWER_STEP
from lockgate.synthesis.factory._whole import PAIR

FORMAT = 1
_MANY_REFUSED = 0.5


@dataclass(slots=True)
class Tally:
    """Counts over the finished rows."""

    rows: int = 0
    by_part: Counter[str] = field(default_factory=Counter)
    by_label: Counter[str] = field(default_factory=Counter)
    by_role: Counter[str] = field(default_factory=Counter)
    by_origin: Counter[str] = field(default_factory=Counter)
    by_family: Counter[str] = field(default_factory=Counter)
    by_topic: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    words: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    pairs: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        """Count a row."""
        label = "harmful" if row.label == 1.0 else "harmless"
        self.rows += 1
        self.by_part[f"{row.meta['split']}/{label}"] += 1
        self.by_label[label] += 1
        self.by_role[role_of(row)] += 1
        self.by_origin[str(row.meta["origin"])] += 1
        self.by_family.update(exchange_families(row) or ["plain"])
        self.by_topic[str(row.category)][label] += 1
        self.words[label].append(len(answer_of(row).split()))
        if PAIR in row.meta:
            self.pairs.add(str(row.meta[PAIR]))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        counters = ("by_part", "by_label", "by_role", "by_origin", "by_family")
        return {
            "total": self.rows,
            **{name: dict(sorted(getattr(self, name).items())) for name in counters},
            "pairs": len(self.pairs),
            "mean_answer_words": {
                name: round(fmean(counts), 1) for name, counts in sorted(self.words.items())
            },
        }


@dataclass(frozen=True, slots=True)
class Origins:
    """What a data set was made with."""

    generator: str
    judge: Mapping[str, Any] | None
    seeds: Sequence[Mapping[str, Any]]
    evaluation: Sequence[Mapping[str, Any]]


def build_card(kit: Kit, result: PipelineResult, origins: Origins, sha256: str) -> dict[str, Any]:
    """The card as JSON; equal for every run that ends with the same data."""
    tally = Tally()
    for row in result.rows():
        tally.add(row)
    dropped = count_rejected(result.rejected())
    topics = [_topic_card(kit, name, tally, dropped, result) for name in kit.topics]
    constitution = kit.constitution
    steps = [step.to_dict() for step in result.steps]
    reasoning = {name: _sum(steps, f"reasoning_{name}") for name in ("stripped", "rejected")}
    return {
        "format": FORMAT,
        "constitution": {
            "name": constitution.name,
            "version": constitution.version,
            "sha256": constitution.sha256,
        },
        "generator": origins.generator,
        "judge": dict(origins.judge) if origins.judge else None,
        "seeds": list(origins.seeds),
        "evaluation": list(origins.evaluation),
        "rows": tally.to_dict(),
        "topics": topics,
        "steps": steps,
        "requests": _sum(steps, "requests"),
        "tokens": {name: _sum(steps, f"{name}_tokens") for name in ("prompt", "completion")},
        # Only where a model sent its thoughts: cards of other runs stay as they are.
        **({"reasoning": reasoning} if any(reasoning.values()) else {}),
        "warnings": list_warnings(topics),
        "plan": kit.plan.model_dump(mode="json"),
        "exchanges_sha256": sha256,
    }


def count_rejected(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """For each entry that rows were asked for: `step/reason` and how many."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        why = row.meta[REJECTED]
        name = str(row.meta.get("asked_for") or row.category)
        counts[name][f"{why['step']}/{why['reason']}"] += 1
        if why["step"] == ANSWER_STEP and role_of(row) == COMPLIANT:
            counts[name]["compliant_lost"] += 1
            counts[name]["compliant_refused"] += why["reason"] == "refusal"
    return counts


def list_warnings(topics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader should act on, by entry."""
    warnings = []
    for topic in topics:
        name, asked = topic["id"], topic["compliant"]["asked"]
        if topic["lists"]["asked"] and topic["lists"]["refused"] >= _MANY_REFUSED * topic["lists"]["asked"]:
            warnings.append(
                f"{name}: the generator refused {topic['lists']['refused']} of {topic['lists']['asked']} "
                "requests for questions; composed ones stand in. Give prompts of your own (--prompts) or "
                "another generator"
            )
        if asked and topic["compliant"]["refused"] >= _MANY_REFUSED * asked:
            warnings.append(
                f"{name}: the generator refused {topic['compliant']['refused']} of {asked} answers; a guard "
                "learns little about this category. Take a generator that writes about it (a base or "
                "helpful-only model), or train with labelled exchanges of your own besides"
            )
        elif topic["kind"] == "harmful" and asked and not topic["rows"]["harmful"]:
            warnings.append(f"{name}: no harmful exchange came through; see `dropped` for the reasons")
        if topic["questions"] < topic["wanted"]:
            warnings.append(f"{name}: {topic['questions']} questions of {topic['wanted']} wanted")
    return warnings


def _topic_card(
    kit: Kit, name: str, tally: Tally, dropped: Mapping[str, Counter[str]], result: PipelineResult
) -> dict[str, Any]:
    topic, lost = kit.topics[name], Counter(dropped.get(name, {}))
    steps = {step.step: step for step in result.steps}
    origins = {
        key.partition("/")[2]: count
        for key, count in sorted(steps["choose"].counters.items())
        if key.partition("/")[0] == name
    }
    questions = sum(origins.values())
    asked = questions * kit.plan.answers.per_harmful if topic.is_harmful else 0
    lists = count_lists(kit.questions[name], kit.plan)
    refused, _ = lost.pop("compliant_refused", 0), lost.pop("compliant_lost", 0)
    return {
        "id": name,
        "kind": topic.kind,
        "wanted": kit.questions[name],
        "questions": questions,
        "by_origin": origins,
        "lists": {"asked": lists, "refused": lost[f"{ASK_STEP}/refusal"]},
        "compliant": {"asked": asked, "refused": refused},
        "rows": {label: tally.by_topic[name][label] for label in ("harmful", "harmless")},
        "dropped": {key: count for key, count in sorted(lost.items()) if count},
    }


def _sum(steps: Sequence[Mapping[str, Any]], counter: str) -> int:
    return sum(int(step["counters"].get(counter, 0)) for step in steps)
