"""The rows of a build, divided into training, calibration and held-out rows before anything is scored."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lockgate.assembly._inputs import BuildInputs
from lockgate.assembly._plan import TrainingPlan
from lockgate.assembly._reviews import TopReviews, lay_reviews
from lockgate.assembly._sources import Dropped, Guarded, read_labelled, read_traffic
from lockgate.calibration import DEFAULT_BUDGETS, allowed_flags, required_n
from lockgate.curation import EvaluationIndex, grouped_split
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, PromptPrints, prompt_group, prompt_text
from lockgate.feedback import FEEDBACK, Retraining
from lockgate.synthesis.augmentations import exchange_families
from lockgate.synthesis.factory import REFUSED, SynthesisResult

# Raise it when the division changes, so that an older build's folder is divided again.
PARTING = 6
TRAIN = "train"
PLAIN, DISGUISED, HELD_OUT_DISGUISE = "plain", "disguised as in training", "held-out disguise"
# Template refusals are alike and easy: among ordinary harmless rows they would make any rate look better.
REFUSAL = "synthetic refusal from a template"
TRAFFIC = "traffic"
# Field of `meta` of the traffic that trains.
ORIGIN = "build_origin"
# Why an exchange of the traffic is not in the sample.
HARMFUL = "reviewed: breaks the policy"


@dataclass(frozen=True, slots=True)
class BuildRows:
    """The parts of a build's rows. No prompt of another part is in `training`.

    Attributes:
        training: labelled rows that train.
        held_out: synthetic rows that measure the guard. `source` names their disguise, or says that they are
            refusals.
        provisional: synthetic rows for a guard without traffic. The ordinary harmless ones set its threshold.
        calibration: the user's traffic that sets the threshold; empty if it supports no budget.
        reviews: reviewed exchanges that do not train.
        budget: the budget that the number of calibration prompts supports, or None.
        reason: why no budget is claimed, or None.
        dropped: rows in none of these parts.
        counts: figures for the report.
        excluded: ids of calibration rows that reviews call harmful. They set no threshold.
        confirmed: ids of calibration rows at the top of the traffic that reviews call harmless.
        proposal: entries for the constitution that the reviews propose; None without reviews.
    """

    training: list[Exchange]
    held_out: list[Exchange]
    provisional: list[Exchange]
    calibration: list[Exchange]
    reviews: list[Exchange]
    budget: float | None
    reason: str | None
    dropped: list[Exchange]
    counts: Mapping[str, Any]
    proposal: Mapping[str, Any] | None
    excluded: Sequence[str] = ()
    confirmed: Sequence[str] = ()

    @property
    def sample(self) -> list[Exchange]:
        """The calibration rows that count as benign."""
        left_out = set(self.excluded)
        return [row for row in self.calibration if row.id not in left_out]


def gather_rows(inputs: BuildInputs, data: SynthesisResult) -> BuildRows:
    """Read all sources and divide the rows.

    Raises:
        TrainingError: A label has too few rows. The message repeats the factory's warnings.
        CalibrationError, ExchangeError: A file isn't what its option asks for.
    """
    plan, dropped = inputs.training, Dropped()
    synthetic = list(data.rows())
    train = [row for row in synthetic if row.meta.get("split") == TRAIN]
    rest = [_marked(row, inputs) for row in synthetic if row.meta.get("split") != TRAIN]
    index = EvaluationIndex.from_files(inputs.evaluation) if inputs.evaluation else None
    guarded = Guarded(index, PromptPrints.of(rest))
    traffic = read_traffic(inputs.benign, guarded, dropped)
    benign, calibration = _part_traffic(traffic, plan)
    given = read_labelled(inputs.data, train, guarded, dropped)
    room = plan.max_rows - len(benign)
    train = _draw(train, room, plan.seed, "synthetic", dropped)
    given = _draw(given, room - len(train), plan.seed, "data", dropped)
    training = [*train, *given, *benign]
    unreviewed = PromptPrints.of(training)
    reviews = lay_reviews(inputs, synthetic, training, calibration, index, dropped)
    retraining = None if reviews is None else reviews.retraining
    if retraining is not None:
        training = list(retraining.rows)
    check_labels(training, plan, data)
    rest = _left_to_judge(rest, PromptPrints.of(training), retraining, dropped)
    top = TopReviews() if reviews is None else reviews.top
    calibration, reviewed = _left_to_calibrate(calibration, unreviewed, retraining, top, dropped)
    prompts = _prompts([row for row in calibration if row.id not in top.excluded])
    budget = possible_budget(prompts, plan.budget)
    held_out, provisional = (rest, []) if budget is not None else _halves(rest)
    return BuildRows(
        training=training,
        held_out=held_out,
        provisional=provisional,
        calibration=calibration if budget is not None else [],
        reviews=list(retraining.held_out) if retraining is not None else [],
        budget=budget,
        reason=None if budget is not None else _no_claim(prompts, bool(inputs.benign)),
        dropped=dropped.rows,
        counts={
            "training": _count(training),
            "synthetic": len(train),
            "data": len(given),
            "benign_training": len(benign),
            "calibration_prompts": prompts,
            "calibration_reviewed": reviewed,
            "traffic_prompts": _prompts(traffic),
            "budget_of_all_traffic": possible_budget(_prompts(traffic), plan.budget),
            "held_out": _count_kinds(held_out),
            "provisional": _count_kinds(provisional),
            "dropped": dict(sorted(dropped.counts.items())),
            "feedback": None if reviews is None else reviews.counts,
        },
        proposal=None if reviews is None else reviews.proposal,
        excluded=_held(calibration, top.excluded) if budget is not None else [],
        confirmed=_held(calibration, top.confirmed) if budget is not None else [],
    )


def _held(rows: Sequence[Exchange], ids: Collection[str]) -> list[str]:
    """Return which of these ids the rows have, each once, in the order of the rows."""
    return [name for name in dict.fromkeys(row.id for row in rows) if name in ids]


def possible_budget(prompts: int, wished: float) -> float | None:
    """Return the budget that this number of distinct prompts supports: the wished one, else the smallest."""
    if not prompts:
        return None
    budgets = [wished, *(budget for budget in DEFAULT_BUDGETS if budget > wished)]
    return next((budget for budget in budgets if allowed_flags(prompts, budget) is not None), None)


def check_labels(training: Sequence[Exchange], plan: TrainingPlan, data: SynthesisResult) -> None:
    """Check that both labels have enough rows to train a probe. Raises TrainingError."""
    harmful = sum((row.label or 0.0) >= 0.5 for row in training)
    counts = {"harmful": harmful, "harmless": len(training) - harmful}
    short = [f"{count} {label}" for label, count in counts.items() if count < plan.least_rows]
    if short:
        notes = "; ".join(data.warnings[:3])
        raise TrainingError(
            f"{' and '.join(short)} training exchanges; at least {plan.least_rows} of each label are needed. "
            "Plan more questions, use another generator, or give labelled exchanges with --data"
            + (f". The factory's warnings: {notes}" if notes else "")
        )


def _part_traffic(traffic: Sequence[Exchange], plan: TrainingPlan) -> tuple[list[Exchange], list[Exchange]]:
    """Draw some prompts by hash to train, each with its first exchange. All others calibrate."""
    groups = [prompt_group(row) for row in traffic]
    drawn = sorted(set(groups), key=lambda group: hashlib.sha256(f"{plan.seed}/{group}".encode()).digest())
    chosen = set(drawn[: min(int(plan.benign_share * len(drawn)), plan.max_benign)])
    first: dict[str, Exchange] = {}
    for row, group in zip(traffic, groups, strict=True):
        if group in chosen:
            marked = {**row.meta, ORIGIN: TRAFFIC}
            first.setdefault(group, replace(row, label=0.0, source=row.source or TRAFFIC, meta=marked))
    return list(first.values()), [
        row for row, group in zip(traffic, groups, strict=True) if group not in chosen
    ]


def _draw(rows: Sequence[Exchange], room: int, seed: int, source: str, dropped: Dropped) -> list[Exchange]:
    """Draw rows by hash until the room is filled; drop the others."""
    if len(rows) <= room:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{seed}/{rows[i].id}".encode()).digest())
    chosen = set(order[: max(0, room)])
    return dropped.unless(rows, (None if i in chosen else "surplus" for i in range(len(rows))), source)


def _trained(rows: Sequence[Exchange], prints: PromptPrints, *, near: bool) -> list[str | None]:
    """Return for each row the reason to drop it, if its prompt trains.

    Synthetic rows (`near=False`) match by equality only, because disguises frame many requests in the same
    words.
    """
    if near:
        found = prints.find([prompt_text(row) for row in rows])
        return [None if match is None else f"trained_prompt_{match.kind}" for match in found]
    known = prints.holds([prompt_group(row) for row in rows])
    return ["trained_prompt" if same else None for same in known.tolist()]


def _reviewed(rows: Sequence[Exchange], retraining: Retraining) -> list[str | None]:
    """Return for each row the reason to drop it, if its prompt was reviewed.

    Reviewed rows that don't train are reported on, and some are harmful. So they may not set the threshold.
    """
    judged = {prompt_group(row) for row in retraining.held_out}
    prints = PromptPrints.of([row for row in retraining.rows if FEEDBACK in row.meta])
    found = prints.find([prompt_text(row) for row in rows]) if len(prints) else [None] * len(rows)
    return [
        "reviewed" if prompt_group(row) in judged else None if match is None else f"reviewed_{match.kind}"
        for row, match in zip(rows, found, strict=True)
    ]


def _related(rows: Sequence[Exchange], retraining: Retraining) -> list[str | None]:
    """Return the reason to drop each held-out row that was reviewed, or belongs to a reviewed row's group."""
    reviewed = [row for row in retraining.rows if FEEDBACK in row.meta]
    known = {key for row in (*reviewed, *retraining.held_out) for key in row_keys(row)}
    return [None if known.isdisjoint(row_keys(row)) else "related_to_review" for row in rows]


def part_of(row: Exchange) -> str:
    """Return the part of the harmless training rows that a row counts in; empty for template refusals."""
    if row.meta.get("role") == REFUSED:
        return ""
    return TRAFFIC if row.meta.get(ORIGIN) == TRAFFIC else "written"


def _left_to_judge(
    rows: list[Exchange], trained: PromptPrints, retraining: Retraining | None, dropped: Dropped
) -> list[Exchange]:
    """Keep the held-out rows with prompts that neither train nor were reviewed."""
    rows = dropped.unless(rows, _trained(rows, trained, near=False), "held_out")
    return rows if retraining is None else dropped.unless(rows, _related(rows, retraining), "held_out")


def _left_to_calibrate(
    rows: list[Exchange],
    trained: PromptPrints,
    retraining: Retraining | None,
    top: TopReviews,
    dropped: Dropped,
) -> tuple[list[Exchange], int]:
    """Return the traffic that sets the threshold, and the number of prompts lost to reviews alone.

    What breaks the policy was never benign, so it is no loss to the sample.
    """
    rows = dropped.unless(rows, _trained(rows, trained, near=True), "benign")
    rows = dropped.unless(rows, (HARMFUL if row.id in top.trained else None for row in rows), "benign")
    if retraining is None:
        return rows, 0
    kept = dropped.unless(rows, _reviewed(rows, retraining), "benign")
    return kept, _prompts(rows) - _prompts(kept)


def _halves(rows: Sequence[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
    """Split rows into a half that measures the guard and a half that sets a provisional threshold.

    Rows of one prompt, pair, phrase or original stay together.

    Raises:
        TrainingError: The second half has no harmless row.
    """
    parts = grouped_split([row_keys(row) for row in rows], {"judge": 0.5, "threshold": 0.5})
    halves = (
        [row for row, part in zip(rows, parts, strict=True) if part == "judge"],
        [row for row, part in zip(rows, parts, strict=True) if part == "threshold"],
    )
    if not _count_kinds(halves[1])["harmless"]:
        raise TrainingError(
            "no held-out harmless exchange is left to set a provisional threshold; give traffic (--benign), "
            "or keep a part beside `train` in the plan's `split`"
        )
    return halves


def row_keys(row: Exchange) -> list[str]:
    """Return the keys of a row. Rows that share one must not be in two parts of the data."""
    keys = [f"prompt/{prompt_group(row)}", f"exchange/{row.meta.get('original', row.id)}"]
    if "pair" in row.meta:
        keys.append(f"pair/{str(row.meta['pair']).partition('/')[0]}")
    if "phrase" in row.meta:
        keys.append(f"phrase/{row.meta.get('asked_for') or row.category}/{row.meta['phrase']}")
    return keys


def _marked(row: Exchange, inputs: BuildInputs) -> Exchange:
    families = exchange_families(row)
    held = sorted(set(families) & set(inputs.factory.augmentation.hold_out))
    if row.meta.get("role") == REFUSED:
        return replace(row, source=REFUSAL)
    kind = f"{HELD_OUT_DISGUISE}: {held[0]}" if held else DISGUISED if families else PLAIN
    return replace(row, source=kind)


def _no_claim(prompts: int, given: bool) -> str:
    if not given:
        return "no traffic of the user's own was given (--benign)"
    return (
        f"{prompts} distinct prompts of traffic carry no budget; the loosest, {DEFAULT_BUDGETS[-1]:.0%}, "
        "takes "
        f"{required_n(DEFAULT_BUDGETS[-1])}"
    )


def _prompts(rows: Sequence[Exchange]) -> int:
    return len({prompt_group(row) for row in rows})


def _count(rows: Sequence[Exchange]) -> dict[str, int]:
    labels = Counter("harmful" if (row.label or 0.0) >= 0.5 else "harmless" for row in rows)
    return {"harmful": labels["harmful"], "harmless": labels["harmless"]}


def _count_kinds(rows: Sequence[Exchange]) -> dict[str, int]:
    """Count held-out rows, with template refusals apart from the ordinary harmless rows."""
    refusals = sum(row.source == REFUSAL for row in rows)
    return {**_count([row for row in rows if row.source != REFUSAL]), "refusals": refusals}
