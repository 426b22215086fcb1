"""The card in words, as the README of the data set's folder."""

from collections.abc import Mapping, Sequence
from typing import Any


def write_readme(card: Mapping[str, Any]) -> str:
    """Markdown made from `card.json`."""
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
