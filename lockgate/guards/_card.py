"""The model card of a bundle. It is written from the bundle's record; nothing is typed by hand."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from lockgate.calibration import Calibration
from lockgate.constitution import Constitution
from lockgate.guards._record import GuardRecord, TrainingRecord

_TAGS = {"classifier": "exchange-classifier", "text": "text-baseline", "judge": "judge"}
_JUDGES = {"classifier": "exchange classifier", "text": "text baseline", "judge": "judge of text"}
_SHORT = {"classifier": "classifier", "text": "text baseline", "judge": "judge"}


def write_card(
    record: GuardRecord,
    constitution: Constitution,
    results: Mapping[str, Any] | None = None,
    *,
    training_prompts: int = 0,
    measured: str = "",
) -> str:
    """Write the card as Markdown, with the front matter that model hubs read.

    Args:
        results: content of a result file with a `sets` entry, as the embedded guard's recipe writes it.
        training_prompts: number of training prompts that the bundle holds fingerprints of.
        measured: a section in Markdown that replaces the results. A build writes it from its report.
    """
    front = {
        "library_name": "lockgate",
        "base_model": record.backbone.name,
        "pipeline_tag": "text-classification",
        "tags": ["safety", "guard", "linear-probe", "constitutional-classifier"]
        + [_TAGS[kind] for kind in record.judges]
        + (["cascade"] if record.cascade else []),
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {record.name}\n",
        _what_it_is(record, constitution),
        _stages(record),
        _policy(constitution),
        _calibration(record),
        measured or _results(results),
        _training(record.training, training_prompts) if record.training else "",
        _limits(record),
    ]
    return "\n".join(part for part in parts if part)


def _what_it_is(record: GuardRecord, constitution: Constitution) -> str:
    policy = f"`{constitution.name}` (version {constitution.version})"
    reads = "It reads prompt and answer together and scores every token"
    if record.cascade is None:
        return (
            f"A linear probe on the activations of {record.backbone.name} that keeps the policy {policy}. "
            f"{reads}; a stream is halted when the smoothed logit crosses the threshold.\n"
        )
    return (
        f"Two stages on {record.backbone.name} that keep the policy {policy}: a linear probe on its "
        f"activations and {' and '.join(f'{_article(kind)} {_JUDGES[kind]}' for kind in record.judges)}. "
        f"{reads}; where the probe is alarmed, {_who(record)} judge{'s' * (len(record.judges) == 1)} "
        "the conversation so far, and a stream is halted when both together cross the threshold.\n"
    )


def _article(kind: str) -> str:
    return "an" if _JUDGES[kind][0] in "aeiou" else "a"


def _who(record: GuardRecord) -> str:
    return " and ".join(f"the {_SHORT[kind]}" for kind in record.judges)


def _stages(record: GuardRecord) -> str:
    cascade = record.cascade
    if cascade is None:
        return ""
    judges = []
    if record.classifier is not None:
        judges.append(
            f"exchange classifier `{record.classifier.name}` (SHA-256 `{record.classifier.sha256[:16]}…`)"
        )
    if record.text is not None:
        judges.append(f"text baseline of hashed n-grams (SHA-256 `{record.text.sha256[:16]}…`)")
    if record.judge is not None:
        judges.append(
            f"judge `{record.judge.name}` ({record.judge.kind}, SHA-256 `{record.judge.sha256[:16]}…`)"
        )
    several = len(judges) > 1
    second = "stage 2" if record.voices else _SHORT[record.judges[0]]
    return (
        "## Two stages\n\n"
        f"1. The probe scores every token. Above a smoothed logit of {cascade.escalate:.4f} a stream is "
        "suspicious, and its tokens are held.\n"
        f"2. The {' and the '.join(judges)} {'are' if several else 'is'} asked at "
        f"the end of every block of {cascade.stride} answer tokens, until {cascade.calm_blocks} blocks in a "
        f"row were quiet. {'Their' if several else 'Its'} verdict releases the held tokens or halts the "
        "stream; a verdict that fails or comes too late halts it.\n\n"
        f"Mixed score: {cascade.weight:g} x (probe - {cascade.probe_mean:.4f}) / {cascade.probe_std:.4f} + "
        f"{1 - cascade.weight:g} x ({second} - {cascade.classifier_mean:.4f}) / "
        f"{cascade.classifier_std:.4f}, in logits.\n"
        + _voices(record)
        + _drift(cascade.drift)
        + _delay(cascade.delay)
    )


def _drift(drift: float) -> str:
    """Say how readings are corrected for the length of the answer, if they are."""
    if not drift:
        return ""
    return (
        f"\nLength: in a block that ends at t answer tokens, {drift:.4f} x log2(1 + t / 64) logits are taken "
        "off the probe's logit before it is compared or mixed.\n"
    )


def _delay(delay: int) -> str:
    """Say what a suspicious stream keeps back after a verdict, if anything."""
    if not delay:
        return ""
    return (
        f"\nDelay: a suspicious stream keeps its newest {delay} answer tokens back until later verdicts or "
        "the end of suspicion release them.\n"
    )


def _voices(record: GuardRecord) -> str:
    """Say how the judges of stage 2 are mixed, if they are."""
    if not record.voices:
        return ""
    terms = (
        f"{voice.weight:g} x ({_SHORT[voice.kind]} - {voice.mean:.4f}) / {voice.std:.4f}"
        for voice in record.voices
    )
    return f"\nStage 2: {' + '.join(terms)}, in logits.\n"


def _policy(constitution: Constitution) -> str:
    rows = "\n".join(f"- `{category.id}`: {category.title}" for category in constitution.harmful)
    return f"## What it is meant to stop\n\n{rows}\n"


def _calibration(record: GuardRecord) -> str:
    head = "## Refusal budget\n\n"
    if record.calibration is None:
        return (
            head + "**Uncalibrated.** The threshold is provisional and no false-refusal rate is claimed. Run "
            "`lockgate calibrate` on your own traffic before you rely on it.\n" + _provisional(record)
        )
    found = Calibration.from_dict(record.calibration)
    score = "smoothed logit" if record.cascade is None else "mixed score"
    deciles = ", ".join(f"{value:.0f}" for value in found.length_deciles)
    sources = ", ".join(f"{name} {count}" for name, count in sorted(found.sources.items()))
    return (
        f"{head}Threshold {found.threshold:.4f} ({score}). At most k = {found.k} of n = {found.n} "
        f"distinct benign prompts may flag; {found.flagged} do. One-sided {found.confidence:.0%} upper bound "
        f"of the flagged share: {found.bound:.4%}, within the budget of {found.budget:.3%}.\n\n"
        f"- lengths (deciles, tokens): {deciles or 'not recorded'}\n- traffic: {sources or 'not recorded'}\n"
        f"- excluded by hand, in calibration only: {len(found.excluded)}\n"
        + "".join(f"- {line}\n" for line in record.claim)
    )


def _provisional(record: GuardRecord) -> str:
    found = record.provisional
    if found is None:
        return ""
    return (
        f"\nWhy: {found.reason}. The threshold {record.thresholds.flag:.4f} stands above all but "
        f"{math.floor(found.quantile * found.n + 1e-9)} of {found.n} {found.source}; how often it "
        "refuses what people really ask is not known.\n"
    )


def _results(results: Mapping[str, Any] | None) -> str:
    if not results:
        return ""
    lines = [
        "## Measured\n",
        "| set | n | AUROC | TPR at 0.1 % FPR (95 % interval) | text baseline |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, found in results["sets"].items():
        probe, base = found["probe"], found["baseline"]
        low, high = probe["ci"]
        lines.append(
            f"| {name} | {found['n']} | {_number(probe['auroc'])} | "
            f"{_number(probe['tpr_at_0.001'])} ({_number(low)} to {_number(high)}) | "
            f"{_number(base['tpr_at_0.001'])} |"
        )
    return "\n".join(lines) + "\n" + _both_stages(results.get("two_stage"))


def _both_stages(found: Mapping[str, Any] | None) -> str:
    """Compare one stage with two at the guard's budget, if a recipe has measured it."""
    if not found:
        return ""
    at = found["points"]["budget"]
    lines = [
        f"\nOne stage against two, both at the budget of {found['budget']:.2%}:\n",
        "| set | harmful | TPR of one stage (95 % interval) | TPR of two stages |",
        "|---|--:|--:|--:|",
    ]
    for name, row in at["sets"].items():
        cells = (
            f"{_number(own['tpr'])} ({_number(own['ci'][0])} to {_number(own['ci'][1])})"
            for own in (row["one_stage"], row["two_stages"])
        )
        lines.append(f"| {name} | {row['one_stage']['n']} | {' | '.join(cells)} |")
    flagged = []
    for part, row in at["benign"].items():
        one, two = row["one_stage"], row["two_stages"]
        flagged.append(f"{part} {two['hits']} of {two['n']} (one stage {one['hits']})")
    escalated = found["escalated"]["benign_test"]["rate"]
    return "\n".join(lines) + (
        f"\n\nFlagged: {', '.join(flagged)}. "
        f"Stage 2 is asked about {escalated:.2%} of other benign exchanges.\n"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _training(training: TrainingRecord, prompts: int) -> str:
    rows = "\n".join(
        f"| {source} | {count.get('harmful', 0)} | {count.get('harmless', 0)} |"
        for source, count in sorted(training.exchanges.items())
    )
    known = (
        f"The bundle holds fingerprints of {prompts} training prompts: traffic that holds them is refused in "
        "calibration."
        if prompts
        else "The bundle holds no fingerprints of its training prompts: whether calibration traffic overlaps "
        "them can't be checked."
    )
    notes = "".join(f"- {note}\n" for note in [*training.notes, known])
    return (
        f"## Training\n\nRecipe: `{training.recipe}`; seeds {training.seeds}; data SHA-256 "
        f"`{training.data_sha256[:16]}…`.\n\n| source | harmful | harmless |\n|---|--:|--:|\n"
        f"{rows}\n\n{notes}"
    )


def _limits(record: GuardRecord) -> str:
    return (
        "## Limits\n\n"
        "- The claim holds for traffic like that of the calibration, in its lengths and languages, and for "
        "no other. Your own traffic differs: recalibrate, or start in shadow mode.\n"
        "- A small backbone understands little: disguises that it cannot read pass. Adaptive attackers were "
        "not measured here.\n"
        f"- Made for exactly this backbone ({record.backbone.name}, {record.backbone.dtype}"
        f"{'' if record.backbone.device == 'cpu' else f' on {record.backbone.device}'}); it refuses "
        "others.\n"
        "- Category names are reported for orientation; the decision does not depend on them.\n"
    )
