"""The card of a data set: its rows, the dropped rows with reasons, and its origins. It holds no row's text.

The card is a JSON file. The README of the data set's folder says the same in words.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from lockgate.synthesis._pipeline import PipelineResult
from lockgate.synthesis._rows import REJECTED, Row
from lockgate.synthesis.augmentations import exchange_families
from lockgate.synthesis.factory._brief import Brief, count_lists
from lockgate.synthesis.factory._questions import ASK_STEP
from lockgate.synthesis.factory._roles import COMPLIANT, PAIR, answer_of, role_of
from lockgate.synthesis.factory._steps import ANSWER_STEP

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
        """Return the JSON form."""
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
    """The generators and files that a data set was made with."""

    generator: str
    judge: Mapping[str, Any] | None
    seeds: Sequence[Mapping[str, Any]]
    evaluation: Sequence[Mapping[str, Any]]


def build_card(brief: Brief, result: PipelineResult, origins: Origins, sha256: str) -> dict[str, Any]:
    """Return the card as JSON. Runs that end with the same data give the same card."""
    tally = Tally()
    for row in result.rows():
        tally.add(row)
    dropped = count_rejected(result.rejected())
    topics = [_topic_card(brief, name, tally, dropped, result) for name in brief.topics]
    constitution = brief.constitution
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
        # Only if a model sent its thoughts. Cards of other runs stay as they are.
        **({"reasoning": reasoning} if any(reasoning.values()) else {}),
        "warnings": list_warnings(topics),
        "plan": brief.plan.model_dump(mode="json"),
        "exchanges_sha256": sha256,
    }


def count_rejected(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """Count dropped rows for each entry, by `step/reason`."""
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
    """List what a reader should act on, entry by entry."""
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
    brief: Brief, name: str, tally: Tally, dropped: Mapping[str, Counter[str]], result: PipelineResult
) -> dict[str, Any]:
    topic, lost = brief.topics[name], Counter(dropped.get(name, {}))
    steps = {step.step: step for step in result.steps}
    origins = {
        key.partition("/")[2]: count
        for key, count in sorted(steps["choose"].counters.items())
        if key.partition("/")[0] == name
    }
    questions = sum(origins.values())
    asked = questions * brief.plan.answers.per_harmful if topic.is_harmful else 0
    lists = count_lists(brief.questions[name], brief.plan)
    refused, _ = lost.pop("compliant_refused", 0), lost.pop("compliant_lost", 0)
    return {
        "id": name,
        "kind": topic.kind,
        "wanted": brief.questions[name],
        "questions": questions,
        "by_origin": origins,
        "lists": {"asked": lists, "refused": lost[f"{ASK_STEP}/refusal"]},
        "compliant": {"asked": asked, "refused": refused},
        "rows": {label: tally.by_topic[name][label] for label in ("harmful", "harmless")},
        "dropped": {key: count for key, count in sorted(lost.items()) if count},
    }


def _sum(steps: Sequence[Mapping[str, Any]], counter: str) -> int:
    return sum(int(step["counters"].get(counter, 0)) for step in steps)


def write_readme(card: Mapping[str, Any]) -> str:
    """Return the README in Markdown, made from `card.json`."""
    policy, rows = card["constitution"], card["rows"]
    lines = [
        f"# Synthetic exchanges for `{policy['name']}` {policy['version']}",
        "",
        f"{rows['total']} exchanges, {rows['by_label'].get('harmful', 0)} harmful and "
        f"{rows['by_label'].get('harmless', 0)} harmless, {rows['pairs']} counterfactual pairs. Written by "
        f"`{card['generator']}` in {card['requests']} requests ({card['tokens']['prompt']} prompt and "
        f"{card['tokens']['completion']} completion tokens).",
        "",
        _judge_line(card["judge"]),
        "Labels come from what each answer was asked to be, and from word rules. They are for training: what "
        "a generator wrote says nothing about how a guard does on what people write.",
        "",
        *_reasoning(card.get("reasoning")),
        *_warnings(card["warnings"]),
        "## Rows",
        "",
        *_table(["part", "rows"], rows["by_part"].items()),
        *_table(["kind of exchange", "rows"], rows["by_role"].items()),
        *_table(["question from", "rows"], rows["by_origin"].items()),
        *_table(["disguise", "rows"], rows["by_family"].items()),
        *_table(["answers", "mean words"], rows["mean_answer_words"].items()),
        "## Entries of the constitution",
        "",
        *_table(
            ["entry", "kind", "questions", "generated", "composed", "from files", "harmful", "harmless"],
            (_topic_row(topic) for topic in card["topics"]),
        ),
        "## Steps",
        "",
        *_table(
            ["step", "rows in", "rows out", "dropped"],
            ((step["step"], step["rows_in"], step["rows_out"], _reasons(step)) for step in card["steps"]),
        ),
        *_files("Prompts of the user", card["seeds"]),
        *_files("Evaluation files kept out", card["evaluation"]),
        f"Constitution SHA-256 `{policy['sha256']}`; `exchanges.jsonl` SHA-256 `{card['exchanges_sha256']}`; "
        "the plan is in `plan.yaml`, all counts in `card.json`, dropped rows under `work/steps`.",
        "",
    ]
    return "\n".join(lines)


def _judge_line(judge: Mapping[str, Any] | None) -> str:
    if judge is None:
        return "No language model judged the labels."
    return (
        f"`{judge['name']}` judged the labels; it agrees with {judge['agreement']:.1%} of {judge['rows']} "
        f"rows labelled by hand ({judge['agreement_harmful']:.1%} of the harmful, "
        f"{judge['agreement_harmless']:.1%} of the harmless)."
    )


def _warnings(warnings: Sequence[str]) -> list[str]:
    return ["## To be looked at", "", *(f"- {warning}" for warning in warnings), ""] if warnings else []


def _reasoning(counts: Mapping[str, int] | None) -> list[str]:
    if counts is None:
        return []
    return [
        f"The generator sent its reasoning in the text of answers: taken out of {counts['stripped']}; "
        f"{counts['rejected']} were dropped, since the answer couldn't be told from it.",
        "",
    ]


def _topic_row(topic: Mapping[str, Any]) -> list[object]:
    origins = topic["by_origin"]
    counts = [origins.get(name, 0) for name in ("generator", "template", "file")]
    return [topic["id"], topic["kind"], topic["questions"], *counts, *topic["rows"].values()]


def _reasons(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in step["rejected"].items())


def _table(columns: Sequence[str], rows: Any) -> list[str]:  # noqa: ANN401 - rows of anything printable
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return [*head, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _files(title: str, files: Sequence[Mapping[str, Any]]) -> list[str]:
    if not files:
        return []
    rows = ((file["name"], file["rows"], f"`{file['sha256']}`") for file in files)
    return [f"## {title}", "", *_table(["file", "rows", "SHA-256"], rows)]
