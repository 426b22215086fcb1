"""The update of a guard: the new guard compared with the old one, and whether it may replace it."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs
from lockgate.assembly._measure import leave_out, score_part, without_refusals
from lockgate.assembly._threshold import with_flags
from lockgate.durable import atomic_folder, hash_path, restore_folder
from lockgate.feedback import CategoryChange, GuardComparison, UpdateRule, UpdateVerdict, compare_guards
from lockgate.guards import Guard, read_bundle
from lockgate.tables import ScoresTable

PREVIOUS = "previous"
# Two guards without a common budget are both cut at this share of benign exchanges.
_COMMON_FPR = 0.01


@dataclass(frozen=True, slots=True)
class Update:
    """A comparison of two guards, and the rule's verdict on it.

    Attributes:
        comparison: over rows that neither guard was trained on, without template refusals.
        verdict: no worse, unclear or worse, with reasons.
        reviews: the comparison over reviewed exchanges that did not train. They were picked because the old
            guard erred, which favours the new one, so the verdict doesn't count them.
        left_out: rows left out because they trained the old guard.
    """

    comparison: GuardComparison
    verdict: UpdateVerdict
    reviews: GuardComparison | None
    left_out: int

    def to_dict(self, *, accepted: bool) -> dict[str, Any]:
        """Return the JSON form for the report."""
        return {
            "verdict": self.verdict.level,
            "reasons": list(self.verdict.reasons),
            "accepted": accepted,
            "point": self.comparison.point,
            "n": self.comparison.n,
            "n_prompts": self.comparison.n_prompts,
            "left_out": self.left_out,
            "overall": [_change(c) for c in (self.comparison.tpr, self.comparison.fpr) if c is not None],
            "categories": [_change(change) for change in self.comparison.categories],
            "reviews": None if self.reviews is None else _reviews(self.reviews),
        }


def keep_previous(folder: BuildFolder, update: Path, made: str, inputs: str) -> Path:
    """Copy the old guard into the folder, as it was before this build first replaced it.

    Args:
        folder: the build's folder.
        update: the bundle to replace.
        made: name of the folder that holds this build's own guard, if it was made already.
        inputs: digest of the build's inputs. Another digest means another update.

    Returns:
        The path of the copy.

    Raises:
        GuardError: The old guard is missing or damaged.
    """
    target = folder.path / PREVIOUS
    restore_folder(update)
    kept = folder.find(PREVIOUS, None, [PREVIOUS])
    place = str(update.absolute())
    if kept is not None and (kept["inputs"], kept.get("place")) == (inputs, place) and not update.exists():
        # Killed between the two moves that replace a guard in its place.
        return target
    read_bundle(update)
    now, published = hash_path(update), hash_path(folder.path / made)
    if kept is not None and (now == kept["guard"] or (now, inputs) == (published, kept["inputs"])):
        return target

    def copy() -> dict[str, Any]:
        with atomic_folder(target) as part:
            shutil.copytree(update, part, dirs_exist_ok=True)
        return {"guard": now, "inputs": inputs, "place": place}

    folder.step(PREVIOUS, {"guard": now, "inputs": inputs}, [PREVIOUS], copy)
    return target


def compare_with_previous(
    folder: BuildFolder,
    inputs: BuildInputs,
    guard: Guard,
    tables: Mapping[str, ScoresTable],
    sources: Mapping[str, Path],
    excluded: Collection[str] = (),
) -> Update:
    """Score the rows with the old guard, compare both guards, and judge the update.

    If both guards have one probe, as after reviews that only change the sample, the scores are those of the
    new guard and only the decisions are the old one's.

    Args:
        folder: the build's folder, which holds the old guard.
        inputs: the build's inputs.
        guard: the new guard, with its threshold.
        tables: the new guard's scores and decisions, by part. `benign` sets a common cut if budgets differ.
        sources: the file of exchanges for each table.
        excluded: ids in `benign` that reviewers found harmful. They are in no table.

    Raises:
        ExchangeError: The old guard was trained on every labelled exchange.
    """
    old = Guard.load(folder.path / PREVIOUS, backbone=inputs.backbone)

    same = _scores_alike(old, guard)

    def score(name: str) -> ScoresTable:
        if same:
            return with_flags(tables[name], old)
        own = f"{name}-before"
        found = without_refusals(score_part(folder, old, sources[name], own, inputs))
        return leave_out(found, excluded) if name == "benign" else found

    tables = {name: without_refusals(table) for name, table in tables.items()}
    judged = [name for name in tables if name not in ("benign", "reviews")]
    before = ScoresTable.concat([score(name) for name in judged])
    after = ScoresTable.concat([tables[name] for name in judged])
    unseen = _unseen(before, old)
    budgets = [None if g.calibration is None else g.calibration.budget for g in (old, guard)]
    options: dict[str, Any] = {"names": ("before", "after")}
    if budgets[0] is not None and budgets[0] == budgets[1]:
        options["budgets"] = tuple(budgets)
    else:
        options["calibrations"] = (score("benign"), tables["benign"])
        options["fpr"] = _COMMON_FPR
    comparison = compare_guards(before.select(unseen), after, **options)
    reviews = None
    if len(tables.get("reviews", ())):
        reviews = compare_guards(score("reviews"), tables["reviews"], names=("before", "after"))
    verdict = (_judge_threshold(old, guard) if same else None) or UpdateRule().judge(comparison)
    if (lost := _lost_claim(old, guard)) is not None:
        verdict = UpdateVerdict("worse", (lost, *(verdict.reasons if verdict.worse else ())))
    return Update(comparison, verdict, reviews, int((~unseen).sum()))


def _scores_alike(old: Guard, new: Guard) -> bool:
    """Whether two guards give the same scores, so that only their thresholds may differ."""
    first, second = old.record, new.record
    if first.stages != 1 or second.stages != 1:
        return first.measure == second.measure
    parts = [(found.probe_sha256, found.backbone, found.gamma, found.window) for found in (first, second)]
    limits = [(found.thresholds.min_tokens, found.thresholds.flag_on) for found in (first, second)]
    return parts[0] == parts[1] and limits[0] == limits[1]


def _judge_threshold(old: Guard, new: Guard) -> UpdateVerdict | None:
    """Judge a lower threshold of the same probe. None: the usual rule judges.

    A lower threshold flags more of everything, so synthetic harmless rows would always speak against it. The
    traffic says how much more is allowed, and the budget is kept on it.
    """
    before, after = old.calibration, new.calibration
    if before is None or after is None or before.budget != after.budget or after.cut > before.cut:
        return None
    return UpdateVerdict(
        "no worse",
        (
            f"Both guards have the same probe. The threshold goes from {before.threshold:.4f} to "
            f"{after.threshold:.4f}, and the budget of {after.budget:.2%} is kept on the traffic.",
        ),
    )


def _lost_claim(old: Guard, new: Guard) -> str | None:
    """Say which budget the old guard claims and the new one doesn't. A common cut would hide that loss."""
    before, after = old.calibration, new.calibration
    if before is None or (after is not None and after.budget <= before.budget * (1 + 1e-9)):
        return None
    held = f"The old guard keeps a refusal budget of {before.budget:.2%}"
    if after is None:
        return f"{held}, and the new one is not calibrated; give traffic with --benign."
    return f"{held}, and the new one only {after.budget:.2%}; give more traffic with --benign."


def _unseen(table: ScoresTable, old: Guard) -> Any:  # noqa: ANN401 - a mask
    if old.training_prompts is None:
        return np.ones(len(table), dtype=bool)
    return ~old.training_prompts.holds(table.groups)


def _change(change: CategoryChange) -> dict[str, Any]:
    return {
        "category": change.category,
        "harmful": change.harmful,
        "n": change.n,
        "n_prompts": change.n_prompts,
        "before": asdict(change.old),
        "after": asdict(change.new),
        "difference": asdict(change.difference),
        "lost": list(change.lost),
        "gained": list(change.gained),
        "p_worse": change.p_worse,
    }


def _reviews(found: GuardComparison) -> dict[str, Any]:
    parts: Sequence[CategoryChange | None] = (found.tpr, found.fpr)
    rows = [part for part in parts if part is not None]
    return {
        "n": found.n,
        "mended": sum(len(part.gained) for part in rows),
        "spoilt": sum(len(part.lost) for part in rows),
    }
