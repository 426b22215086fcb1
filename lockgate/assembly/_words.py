"""What a reader should make of a build: its limits, what a stronger generator would change, what is next."""

from collections.abc import Mapping, Sequence
from typing import Any

from lockgate.assembly._threshold import describe_reviewed

_FEW_ROWS = 20
_MANY = 0.25
# Reasons of the factory that a better writer would give less often; the others are duplicates and counts.
_WRITERS_FAULTS = ("refusal", "off_topic", "repetition", "quality", "too_short", "empty", "malformed")


def describe_generator(card: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the data the generator wrote, and how much of what it wrote was of use."""
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
    """Sentences on what the figures don't say and where the guard is weak."""
    limits = [
        "The held-out exchanges come from the same generator and templates as the training ones: they show "
        "that "
        "training worked, not how the guard does on what people write."
    ]
    claim, held = content["claim"], content["held_out"]
    if claim["budget"] is None:
        limits.append(
            f"No false-refusal rate is claimed: {claim['reason']}. The threshold is provisional; on real "
            "traffic "
            "it may flag far more or far less."
        )
    elif claim["budget"] > claim["wished"]:
        limits.append(
            f"A budget of {claim['wished']:.2%} was wished for and takes {claim['wished_needs']} distinct "
            "prompts; "
            f"{claim['false_refusal_rate']['n']} carry {claim['budget']:.2%}."
        )
    if reviewed := claim.get("reviewed"):
        said = describe_reviewed(reviewed["prompts"], reviewed["bound_if_flagged"])
        limits.append(f"The calibration is {said}.")
    if held is not None and held["thin"]:
        limits.append(
            f"Fewer than ten held-out prompts each: {', '.join(held['thin'])}. Their shares say little."
        )
    if held is not None and (lost := _lost_to_words(held)):
        limits.append(lost)
    held_disguises = [part for part in (held or {}).get("tpr_by_kind", []) if "held-out" in part["key"]]
    if not held_disguises:
        limits.append("No held-out attack family was measured; disguises that training lacks may pass.")
    weak = [part["key"] for part in (held or {}).get("tpr_by_category", []) if _rate(part) < 0.5]
    if weak:
        limits.append(f"Less than half of the held-out harmful exchanges are caught in: {', '.join(weak)}.")
    return limits


def list_changes(generator: Mapping[str, Any]) -> list[str]:
    """What another generator would change, from the factory's counts alone."""
    changes = []
    questions = generator["questions"]
    asked = sum(questions.values())
    if asked and questions["template"]:
        wanted = generator["composed_share"]
        why = f"the plan wants {wanted:.0%} so, and " if wanted else ""
        changes.append(
            f"{questions['template']} of {asked} questions ({questions['template'] / asked:.0%}) are "
            "composed from "
            f"the constitution's own words: {why}what the generator wrote was too little, off topic or "
            "alike. A "
            "stronger one words them as people do."
        )
    if generator["openings"]:
        changes.append(
            "Answers are begun in the constitution's own words, since this generator strays; one that "
            "keeps to a "
            "subject says things that the constitution doesn't, and a guard then learns more than its words."
        )
    compliant = generator["compliant_answers"]
    if compliant["refused"]:
        changes.append(
            f"It refused {compliant['refused']} of {compliant['asked']} answers that were to break the "
            "policy; one "
            "that writes them gives the guard more to learn from."
        )
    if generator["refused_categories"]:
        changes.append(f"It hardly writes about: {', '.join(generator['refused_categories'])}.")
    faults = sum(
        count
        for step in generator["dropped_by_step"]
        for reason, count in step["dropped"].items()
        if any(fault in reason for fault in _WRITERS_FAULTS)
    )
    requests = generator["requests"]
    if requests and faults > _MANY * requests:
        changes.append(
            f"{faults} of its texts were dropped as refused, off topic, repetitive or too short, for "
            f"{requests} "
            "requests; a stronger one wastes less and says more in an answer."
        )
    words = generator["mean_answer_words"]
    if words:
        shown = ", ".join(f"{name} {count:g}" for name, count in words.items())
        changes.append(f"Answers have few words ({shown} in the mean): longer ones are judged less surely.")
    return changes


def list_steps(content: Mapping[str, Any]) -> list[str]:
    """What to do next, the most useful first."""
    guard, claim, generator = content["guard"], content["claim"], content["generator"]
    steps = []
    if claim["budget"] is None:
        steps.append(
            f"Collect benign traffic of your own, {claim['wished_needs']} distinct prompts for a budget of "
            f"{claim['wished']:.2%}, and build again with --benign FILE (only training and calibration run "
            "again), "
            f"or run: lockgate calibrate {guard} --input FILE --output {guard}"
        )
    elif claim["budget"] > claim["wished"]:
        steps.append(
            f"Add benign traffic, {claim['wished_needs']} distinct prompts for {claim['wished']:.2%}."
        )
    if generator["refused_categories"] or generator["thin_categories"]:
        names = sorted({*generator["refused_categories"], *generator["thin_categories"]})
        steps.append(
            f"Give prompts (--prompts) or labelled exchanges (--data) for: {', '.join(names)}; or take a "
            "generator "
            "that writes about them."
        )
    steps.append(
        f"Judge it on exchanges labelled by people: lockgate evaluate {guard} --input FILE --output DIR"
    )
    steps.append(f"Watch it without consequences: lockgate serve --guard {guard} --mode shadow")
    # Without the traffic the new guard would claim nothing, and be refused for it.
    traffic = "" if claim["budget"] is None else "--benign FILE "
    steps.append(
        f"Have its verdicts reviewed and retrain: lockgate build CONSTITUTION --out {guard} {traffic}"
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
        f"Counting words does better on the held-out exchanges ({text['value']:.1%} against "
        f"{probe['value']:.1%} at "
        "1 % false positives): in this data the words give the label away."
    )
