"""What `lockgate calibrate` is given, refused before the long scoring where it would be refused after it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lockgate.calibration import Exclusion
    from lockgate.exchanges import PromptPrints
    from lockgate.tables import ScoresTable


def check_traffic(
    paths: Sequence[Path], known: "PromptPrints | None", listed: Collection[str], budget: float
) -> None:
    """Refuse traffic that could not be calibrated on.

    Args:
        known: the prompts that the guard was trained on. listed: ids that are left out.

    Raises:
        CalibrationError: rows labelled harmful, no row with an answer, prompts that were trained on, ids to
            leave out that are not there, or too few distinct prompts for the budget.
    """
    from lockgate.calibration import check_sample, refuse_training_prompts
    from lockgate.errors import CalibrationError
    from lockgate.exchanges import prompt_group, prompt_text, read_exchanges

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
        raise CalibrationError("--input: no exchange with an answer; a threshold is set on scored answers")
    if missing := sorted(set(listed) - set(ids)):
        raise CalibrationError(
            f"--exclude: {len(missing)} ids are not in the traffic, the first is {missing[0]}; list ids of "
            "rows with an answer"
        )
    if known is not None:
        refuse_training_prompts(known.find(prompts), ids, excluded=listed)
    check_sample(len(counted), budget)


def check_places(output: Path | None, scores: Path | None) -> None:
    """Refuse places that could not be written to. Raises GuardError, ConfigError."""
    from lockgate.errors import ConfigError
    from lockgate.guards import check_target

    if output is not None:
        check_target(output)
    if scores is not None and not scores.parent.is_dir():
        raise ConfigError(f"--save-scores: the folder {scores.parent} does not exist; make it first")


def benign_rows(table: "ScoresTable") -> tuple["ScoresTable", int]:
    """The rows with a scored answer, and how many have none. Raises CalibrationError where one is harmful."""
    import numpy as np

    from lockgate.errors import CalibrationError

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


def read_exclusions(path: Path | None) -> list["Exclusion"]:
    """Ids that are left out, each with its reason. Raises CalibrationError naming a line that is none."""
    import json

    from lockgate.calibration import Exclusion
    from lockgate.errors import CalibrationError

    if path is None:
        return []
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
    return listed
