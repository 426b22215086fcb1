"""The settings of the probe's fit: chosen by cross-validation within the training rows, if they are few."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress
from lockgate.assembly._rows import part_of, row_keys
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.training import LOW_RATES, LowRateRecall, ProbeChoice, WindowCache, choose_probe, grouped_folds

_CHOICE = "choice"


def choose_fit(
    folder: BuildFolder, inputs: BuildInputs, training: Sequence[Exchange], cache: WindowCache, windows: str
) -> dict[str, Any]:
    """Choose the settings of the fit.

    Args:
        folder: the build's folder.
        inputs: the build's inputs.
        training: the training rows.
        cache: their windows, in the same order.
        windows: name of the cache's folder. Finished folds are kept in it.

    Returns:
        `config`; `choice` for the report; `held_out` with folds, groups and scores of rows that a fit has not
        seen, or None if nothing was chosen.
    """
    plan = inputs.training
    candidates = plan.candidates(inputs.backbone.n_layers)
    if not plan.folds:
        return _standard(inputs, "the plan asks for no cross-validation")
    if len(training) > plan.choose_below:
        return _standard(inputs, f"{len(training)} training rows are more than {plan.choose_below}")
    try:
        folds, groups = grouped_folds(
            [row_keys(row) for row in training], is_harmful(training), plan.folds, seed=plan.seed
        )
        judge = judge_of(training, groups)
    except TrainingError as error:
        return _standard(inputs, str(error))
    made = choose_probe(
        cache,
        candidates,
        folds,
        judge,
        work=folder.path / windows / _CHOICE,
        report=lambda done, total: inputs.watch(BuildProgress("choose the fit", done, total, "fits")),
    )
    held_out = {"folds": folds.tolist(), "groups": groups, "scores": made.scores.tolist()}
    return {"config": made.config, "choice": _facts(made, plan.folds), "held_out": held_out}


def is_harmful(rows: Sequence[Exchange]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask [N] of harmful rows. Soft labels count as harmful from 0.5."""
    return np.array([(row.label or 0.0) >= 0.5 for row in rows], dtype=bool)


def judge_of(rows: Sequence[Exchange], groups: Sequence[int]) -> LowRateRecall:
    """Return what judges scores of training rows. Traffic and written rows count alike, refusals don't."""
    return LowRateRecall(is_harmful(rows), groups, [part_of(row) for row in rows])


def describe_fit(choice: Mapping[str, Any]) -> str:
    """Say in a sentence which settings the fit has and why."""
    if choice["reason"] is not None:
        return f"fit of the probe: standard settings ({choice['reason']})"
    rates = f"{min(choice['rates']):.1%} to {max(choice['rates']):.0%}"
    first, found = choice["tried"][0], next(one for one in choice["tried"] if one["name"] == choice["chosen"])
    said = (
        f"fit of the probe: {choice['chosen']}, of {len(choice['tried'])} settings; in {choice['folds']} "
        f"folds of the training rows it finds {found['value']:.1%} at false-positive rates of {rates}"
    )
    if found["name"] == first["name"]:
        return f"{said}; no other settings are better by more than their standard error"
    return f"{said}, the standard settings {first['value']:.1%}"


def _facts(made: ProbeChoice, folds: int) -> dict[str, Any]:
    return {
        "chosen": made.config.name,
        "reason": None,
        "folds": folds,
        "rates": list(LOW_RATES),
        "tried": [asdict(one) for one in made.tried],
    }


def _standard(inputs: BuildInputs, reason: str) -> dict[str, Any]:
    config = inputs.training.candidates(inputs.backbone.n_layers)[0]
    choice = {"chosen": config.name, "reason": reason, "folds": 0, "rates": list(LOW_RATES), "tried": []}
    return {"config": config, "choice": choice, "held_out": None}
