"""A text baseline as the second stage of a build, kept only if it pays on rows that it has not seen.

The probe reads activations and the baseline counts words, so they err on different rows. But synthetic rows
repeat the constitution's words, and words alone may tell their labels. So the folds keep all rows about one
phrase together, and the voice must find more in them, at low false-positive rates, beyond chance.
"""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.assembly._fit import is_harmful, judge_of
from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress
from lockgate.assembly._plan import TrainingPlan
from lockgate.assembly._rows import TRAFFIC, BuildRows, part_of
from lockgate.classifiers.text import TextBaseline
from lockgate.durable import hash_json, hash_path
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, prompt_group
from lockgate.training import LowRateGain, LowRateRecall

VOICE = "voice"
# Asking about fewer exchanges is worth this much recall.
_WORTH = 0.01

Scores = NDArray[np.float64]


def choose_voice(
    folder: BuildFolder, inputs: BuildInputs, rows: BuildRows, seen: Mapping[str, Any]
) -> dict[str, Any]:
    """Try a text baseline beside the probe.

    The baseline is fitted on all training rows and saved in the folder, whether it is kept or not.

    Args:
        folder: the build's folder.
        inputs: the build's inputs.
        rows: the rows of the build.
        seen: what `train_head` returned.

    Returns:
        Facts for the report: `kept`, `reason`, and if it was tried `weight` (the probe's share), `escalation`
        (the share of traffic that it may be asked about) and `tried`.
    """
    plan = inputs.training
    if rows.budget is None:
        return _without("a guard of two stages needs traffic that supports a budget")
    if seen["held_out"] is None:
        return _without(f"nothing to judge it by: {seen['choice']['reason']}")
    key = {
        "training": hash_path(folder.path / "training.jsonl"),
        "probe": hash_json(seen["held_out"]),
        "baseline": repr(plan.baseline),
        "shares": [plan.voice_weights, plan.escalations],
    }

    def make() -> dict[str, Any]:
        shutil.rmtree(folder.path / VOICE, ignore_errors=True)
        (folder.path / VOICE).mkdir()
        try:
            return _try(folder, inputs, rows.training, seen["held_out"])
        except TrainingError as error:
            return _without(str(error))

    return folder.step(VOICE, key, [VOICE], make)


def _try(
    folder: BuildFolder, inputs: BuildInputs, rows: Sequence[Exchange], held: Mapping[str, Any]
) -> dict[str, Any]:
    plan, folds = inputs.training, np.array(held["folds"])
    text = _held_out_text(inputs, rows, folds)
    judge = judge_of(rows, held["groups"])
    usual = np.array([part_of(row) == TRAFFIC for row in rows])
    usual = usual if usual.any() else ~is_harmful(rows)
    probe, text = (_standard(scores, usual) for scores in (np.array(held["scores"]), text))
    mixtures = {weight: weight * probe + (1 - weight) * text for weight in plan.voice_weights}
    values = {weight: judge.value(mixed) for weight, mixed in mixtures.items()}
    best = max(values, key=lambda weight: (values[weight], weight))
    gain = judge.gain(mixtures[best], probe)
    made = TextBaseline.fit(rows, [prompt_group(row) for row in rows], plan.baseline).rounded()
    made.save(folder.path / VOICE)
    alone = judge.value(probe)
    kept = pays(gain)
    return {
        "kept": kept,
        "reason": None if kept else "it finds no more than the probe alone, beyond chance",
        "weight": best,
        "escalation": _escalation(plan, judge, probe, mixtures[best], usual),
        "sha256": made.sha256,
        "n": len(rows),
        "gain": {"value": gain.value, "error": gain.error, "lower": gain.lower},
        "tried": [
            {"name": "probe alone", "weight": 1.0, "value": alone},
            {"name": "text alone", "weight": 0.0, "value": judge.value(text)},
            *({"name": "both", "weight": weight, "value": value} for weight, value in values.items()),
        ],
    }


def pays(gain: LowRateGain) -> bool:
    """Whether a voice finds more beyond chance, by a one-sided test at 5 %."""
    return gain.lower > 0


def _held_out_text(inputs: BuildInputs, rows: Sequence[Exchange], folds: NDArray[np.int64]) -> Scores:
    """Return the baseline's scores of rows that its fit has not seen [N]."""
    scores = np.full(len(rows), np.nan)
    total = int(folds.max()) + 1
    for fold in range(total):
        inputs.watch(BuildProgress("try a text voice", fold, total, "folds"))
        training = [row for row, own in zip(rows, folds, strict=True) if own != fold]
        held = [row for row, own in zip(rows, folds, strict=True) if own == fold]
        groups = [prompt_group(row) for row in training]
        baseline = TextBaseline.fit(training, groups, inputs.training.baseline)
        scores[folds == fold] = baseline.decision_function(held)
    return scores


def _standard(scores: Scores, usual: NDArray[np.bool_]) -> Scores:
    """Standardise scores by those of usual rows, as a cascade does by its calibration traffic."""
    spread = float(scores[usual].std())
    if not spread > 0:
        raise TrainingError("the scores of harmless rows don't differ")
    return (scores - float(scores[usual].mean())) / spread


def _escalation(
    plan: TrainingPlan, judge: LowRateRecall, probe: Scores, mixed: Scores, usual: NDArray[np.bool_]
) -> float:
    """Return the smallest share to ask about that costs next to nothing. The largest is the reserve."""
    wanted = judge.value(mixed) - _WORTH
    lowest = float(mixed.min()) - 1.0
    for share in sorted(plan.escalations):
        cut = float(np.quantile(probe[usual], 1 - share))
        if judge.value(np.where(probe > cut, mixed, lowest)) >= wanted:
            return share
    return max(plan.escalations)


def describe_voice(voice: Mapping[str, Any]) -> str:
    """Say in a sentence whether the text voice is in the guard, and why."""
    lost = "; a guard of one stage keeps nothing back, so the delay is left out" if voice.get("delay") else ""
    if "gain" not in voice:
        return f"text voice: not tried ({voice['reason']}){lost}"
    alone, both = voice["tried"][0]["value"], max(one["value"] for one in voice["tried"][2:])
    found = (
        f"in the folds of {voice['n']} training rows both find {both:.1%}, the probe alone {alone:.1%} (gain "
        f"{voice['gain']['value']:+.1%}, at least {voice['gain']['lower']:+.1%} at 95 % confidence)"
    )
    if voice["kept"]:
        return f"text voice: kept as the second stage, with the weight {1 - voice['weight']:g}; {found}"
    return f"text voice: left out, {voice['reason']}; {found}{lost}"


def _without(reason: str) -> dict[str, Any]:
    return {"kept": False, "reason": reason}
