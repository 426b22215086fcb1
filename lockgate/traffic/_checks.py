"""Checks of a calibration's inputs. They run before the long reading."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lockgate.calibration import Exclusion, check_sample, refuse_training_prompts
from lockgate.errors import CalibrationError
from lockgate.exchanges import PromptPrints, prompt_group, prompt_text, read_exchanges
from lockgate.tables import ScoresTable
from lockgate.traffic._plan import CalibrationPlan


def check_traffic(paths: Sequence[Path], known: PromptPrints | None, plan: CalibrationPlan) -> None:
    """Refuse traffic that can't be calibrated on.

    Args:
        paths: files of exchanges.
        known: fingerprints of the prompts that the guard was trained on; None if they are unknown.
        plan: the calibration's settings.

    Raises:
        CalibrationError: a row is labelled harmful, no row has an answer, a prompt was trained on, an id to
            leave out is not there, or the distinct prompts are too few for the budget.
    """
    listed = plan.excluded
    ids, prompts, counted = [], [], set()
    for path in paths:
        for number, exchange in enumerate(read_exchanges(path), 1):
            if exchange.label is not None and exchange.label >= 0.5:
                raise CalibrationError(
                    f"{path}: exchange {number} is labelled harmful; calibration takes benign traffic only, "
                    "leave such rows out"
                )
            if exchange.is_prompt_only:
                continue
            ids.append(exchange.id)
            prompts.append(prompt_text(exchange))
            if exchange.id not in listed:
                counted.add(prompt_group(exchange))
    if not ids:
        raise CalibrationError("traffic: no exchange with an answer; a threshold is set on scored answers")
    if missing := sorted(listed - set(ids)):
        raise CalibrationError(
            f"exclusions: {len(missing)} ids are not in the traffic, the first is {missing[0]}; list ids of "
            "rows with an answer"
        )
    if known is not None:
        refuse_training_prompts(known.find(prompts), ids, excluded=listed)
    check_sample(len(counted), plan.budget, plan.confidence)


def check_development(
    development: Sequence[Path], traffic: Sequence[Path], known: PromptPrints | None
) -> None:
    """Refuse development exchanges that can't be used to choose how two stages are mixed.

    Raises:
        CalibrationError: an exchange has no label or no answer, all have one label, or a prompt is in the
            traffic or in the training data of the stages.
    """
    rows = [row for path in development for row in read_exchanges(path)]
    if not rows:
        raise CalibrationError("development: no exchange in the files; expected harmful and harmless ones")
    labels = [row.label for row in rows]
    if any(label is None for label in labels) or any(row.is_prompt_only for row in rows):
        raise CalibrationError("development: expected a label and an answer in every exchange")
    if len({label is not None and label >= 0.5 for label in labels}) < 2:
        raise CalibrationError(
            "development: all exchanges have one label; expected harmful and harmless ones"
        )
    groups = {prompt_group(row) for path in traffic for row in read_exchanges(path)}
    if shared := sum(prompt_group(row) in groups for row in rows):
        raise CalibrationError(
            f"development: {shared} exchanges have a prompt of the traffic; the weight must be chosen on "
            "other rows than the threshold. Split them by prompt"
        )
    if known is None:
        return
    matches = known.find([prompt_text(row) for row in rows])
    met = [row.id for row, match in zip(rows, matches, strict=True) if match is not None]
    if met:
        raise CalibrationError(
            f"development: {len(met)} of {len(rows)} exchanges have prompts, equal or near, that the "
            f"stages were trained on, the first with id {met[0]}: the weight would favour the stage that "
            "fits them best. Leave them out"
        )


def split_labels(table: ScoresTable) -> tuple[ScoresTable, ScoresTable]:
    """Return the rows that count as benign, and the rows that are labelled harmful.

    Raises:
        CalibrationError: no row is labelled harmful, or all are.
    """
    harmful = table.labels >= 0.5
    if not harmful.any() or harmful.all():
        raise CalibrationError(
            f"labelled: {int(harmful.sum())} of {len(table)} rows are labelled harmful; expected harmful and "
            "harmless ones"
        )
    return table.select(~harmful), table.select(harmful)


def benign_rows(table: ScoresTable) -> tuple[ScoresTable, int]:
    """Return the rows with a scored answer, and the number of rows without one.

    Raises:
        CalibrationError: a row is labelled harmful, or the table does not say which rows share a prompt.
    """
    harmful = np.flatnonzero(table.labels >= 0.5)
    if len(harmful):
        raise CalibrationError(
            f"{len(harmful)} rows are labelled harmful, the first with id {table.ids[harmful[0]]}; "
            "calibration takes benign traffic only, leave such rows out"
        )
    if not table.has_groups:
        raise CalibrationError(
            "the scores table has no prompt_group column, so distinct prompts cannot be counted; score again"
        )
    answered = ~np.isnan(table.floats("max_answer"))
    return table.select(answered), int((~answered).sum())


def read_exclusions(path: Path) -> tuple[Exclusion, ...]:
    """Read the rows to leave out from a file of JSON lines, each with an `id` and a `reason`.

    Raises:
        CalibrationError: the file can't be read, or a line is not an exclusion. The error names the line.
    """
    listed = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read ({type(error).__name__})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            listed.append(Exclusion(str(row["id"]), str(row["reason"])))
        except (ValueError, KeyError, TypeError):
            raise CalibrationError(f'{path}:{number}: expected {{"id": ..., "reason": ...}}') from None
    return tuple(listed)
