"""Sentences of a build's report: limits, what a stronger generator would change, and next steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from lockgate.assembly._threshold import describe_reviewed

_FEW_ROWS = 20
_MANY = 0.25
# Reasons for dropped rows that a better writer would cause less often. The others are duplicates and counts.
_WRITERS_FAULTS = ("refusal", "off_topic", "repetition", "quality", "too_short", "empty", "malformed")


def describe_generator(card: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise, from the data card, how much the generator wrote and how much of it was used."""
    topics = card["topics"]
    origins = card["rows"]["by_origin"]
    questions = {
        name: sum(topic["by_origin"].get(name, 0) for topic in topics)
        for name in ("generator", "template", "file")
    }
    compliant = {name: sum(topic["compliant"][name] for topic in topics) for name in ("asked", "refused")}
    steps = [
        {"step": step["step"], "rows_in": step["rows_in"], "dropped": dict(step["rejected"])}
        for step in card["steps"]
        if step["rejected"]
    ]
    return {
        "name": card["generator"],
        "requests": card["requests"],
        "tokens": dict(card["tokens"]),
        "questions": questions,
        "rows_by_origin": dict(origins),
        "compliant_answers": compliant,
        "composed_share": card["plan"]["queries"].get("composed_share", 0.0),
        "openings": card["plan"]["answers"]["openings"],
        "mean_answer_words": dict(card["rows"]["mean_answer_words"]),
        "dropped_by_step": steps,
        "refused_categories": [t["id"] for t in topics if _refuses(t["compliant"])],
        "thin_categories": [
            t["id"] for t in topics if t["kind"] == "harmful" and t["rows"]["harmful"] < _FEW_ROWS
        ],
    }


def list_limits(content: Mapping[str, Any]) -> list[str]:
    """List what the figures don't say and where the guard is weak, in sentences."""
    limits = [
        "The held-out exchanges come from the same generator and templates as the training exchanges. They "
        "show that training worked, not how the guard does on people's texts."
    ]
    claim, held = content["claim"], content["held_out"]
    if claim["budget"] is None:
        limits.append(
            f"No false-refusal rate is claimed: {claim['reason']}. The threshold is provisional: on real "
            "traffic it may flag far more or far less."
        )
    elif claim["budget"] > claim["wished"]:
        limits.append(
            f"The wished budget of {claim['wished']:.2%} needs {claim['wished_needs']} distinct prompts. "
            f"There are {claim['false_refusal_rate']['n']}, which support {claim['budget']:.2%}."
        )
    if reviewed := claim.get("reviewed"):
        said = describe_reviewed(reviewed["prompts"], reviewed["bound_if_flagged"])
        limits.append(f"The calibration is {said}.")
    if held is not None and held["thin"]:
        limits.append(
            f"These categories have fewer than ten held-out prompts: {', '.join(held['thin'])}. Their shares "
            "say little."
        )
    if held is not None and (lost := _lost_to_words(held)):
        limits.append(lost)
    held_disguises = [part for part in (held or {}).get("tpr_by_kind", []) if "held-out" in part["key"]]
    if not held_disguises:
        limits.append("No held-out attack family was measured. Disguises that training lacks may pass.")
    weak = [part["key"] for part in (held or {}).get("tpr_by_category", []) if _rate(part) < 0.5]
    if weak:
        limits.append(
            f"The guard flags less than half of the held-out harmful exchanges of: {', '.join(weak)}."
        )
    return limits


def list_changes(generator: Mapping[str, Any]) -> list[str]:
    """List what a stronger generator would change, in sentences, from the factory's counts alone."""
    changes = []
    questions = generator["questions"]
    asked = sum(questions.values())
    if asked and questions["template"]:
        wanted = generator["composed_share"]
        why = f"the plan asks for {wanted:.0%}, and " if wanted else ""
        changes.append(
            f"{questions['template']} of {asked} questions ({questions['template'] / asked:.0%}) are "
            f"composed from the constitution's own words: {why}the generator's questions were too few, off "
            "topic or alike. A stronger generator words them as people do."
        )
    if generator["openings"]:
        changes.append(
            "Answers begin in the constitution's own words, because this generator leaves the subject. A "
            "stronger generator says things that the constitution doesn't, and the guard then learns more "
            "than the constitution's words."
        )
    compliant = generator["compliant_answers"]
    if compliant["refused"]:
        changes.append(
            f"The generator refused {compliant['refused']} of {compliant['asked']} answers that break the "
            "policy. A generator that writes them gives the guard more to learn from."
        )
    if generator["refused_categories"]:
        changes.append(f"The generator hardly writes about: {', '.join(generator['refused_categories'])}.")
    faults = sum(
        count
        for step in generator["dropped_by_step"]
        for reason, count in step["dropped"].items()
        if any(fault in reason for fault in _WRITERS_FAULTS)
    )
    requests = generator["requests"]
    if requests and faults > _MANY * requests:
        changes.append(
            f"{requests} requests gave {faults} texts that were dropped as refused, off topic, repetitive or "
            "too short. A stronger generator wastes less and says more in an answer."
        )
    words = generator["mean_answer_words"]
    if words:
        shown = ", ".join(f"{name} {count:g}" for name, count in words.items())
        changes.append(f"Answers are short (mean words: {shown}). The guard is less sure on longer ones.")
    return changes


def list_steps(content: Mapping[str, Any]) -> list[str]:
    """List what to do next, the most useful first."""
    guard, claim, generator = content["guard"], content["claim"], content["generator"]
    steps = []
    if (top := content["top"]) is not None and top["highest"]:
        steps.append(
            "Read the highest exchanges of your traffic: one that breaks the policy keeps the threshold too "
            f"high. Run: lockgate label {top['path']} --guard {guard}. Then build again with --update "
            f"{guard} --feedback reviews.jsonl: nothing is written, trained or scored again."
        )
    if claim["budget"] is None:
        steps.append(
            f"Collect benign traffic of your own: a budget of {claim['wished']:.2%} needs "
            f"{claim['wished_needs']} distinct prompts. Then build again with --benign FILE (only training "
            f"and calibration run again), or run: lockgate calibrate {guard} --input FILE --output {guard}"
        )
    elif claim["budget"] > claim["wished"]:
        steps.append(
            f"Add benign traffic: a budget of {claim['wished']:.2%} needs {claim['wished_needs']} distinct "
            "prompts."
        )
    if (second := content["second_stage"]) is not None:
        beside = f"--text {second['beside']} " if second.get("beside") else ""
        steps.append(
            "Add the second stage, with labelled exchanges that neither trained nor are traffic: lockgate "
            f"calibrate {guard} --input FILE --classifier {second['path']} {beside}--development LABELLED "
            f"--output {guard}"
        )
    if generator["refused_categories"] or generator["thin_categories"]:
        names = sorted({*generator["refused_categories"], *generator["thin_categories"]})
        steps.append(
            f"Give prompts (--prompts) or labelled exchanges (--data) for: {', '.join(names)}. Or use a "
            "generator that writes about them."
        )
    steps.append(
        f"Evaluate it on exchanges labelled by people: lockgate evaluate {guard} --input FILE --output DIR"
    )
    steps.append(f"Try it without halting anything: lockgate serve --guard {guard} --mode shadow")
    # Without the traffic the new guard would claim no budget, so the update would be refused.
    traffic = "" if claim["budget"] is None else "--benign FILE "
    steps.append(
        f"Have people review its verdicts, then retrain: lockgate build CONSTITUTION --out {guard} {traffic}"
        f"--update {guard} --feedback REVIEWS.jsonl"
    )
    return steps


def _refuses(compliant: Mapping[str, int]) -> bool:
    return bool(compliant["asked"]) and compliant["refused"] >= 0.5 * compliant["asked"]


def _rate(part: Mapping[str, Any]) -> float:
    return 1.0 if part["rate"] is None else float(part["rate"]["value"])


def _lost_to_words(held: Mapping[str, Any]) -> str | None:
    points: Sequence[Mapping[str, Any] | None] = (
        held["at_one_percent"]["probe"],
        held["at_one_percent"]["text_baseline"],
    )
    probe, text = points
    if probe is None or text is None or probe["value"] >= text["value"]:
        return None
    return (
        f"The text baseline does better than the probe on the held-out exchanges ({text['value']:.1%} "
        f"against {probe['value']:.1%} at 1 % false positives): in this data the words give the label away."
    )
