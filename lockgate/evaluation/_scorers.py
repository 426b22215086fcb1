"""Scorers: the columns to compare, and their thresholds from calibration rows."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import plain_quantile_threshold
from lockgate.errors import ExchangeError
from lockgate.evaluation._curves import Floats
from lockgate.tables import ScoresTable

BASELINE_PREFIX = "baseline_"


@dataclass(frozen=True, slots=True)
class Baseline:
    """Scores of another scorer on the same exchanges, joined by id.

    Attributes:
        name: name in results and reports.
        scores: its scores table.
        calibration: its scores of calibration exchanges, for its thresholds.
        column: the column to read in both tables.
    """

    name: str
    scores: ScoresTable
    calibration: ScoresTable | None = None
    column: str = "mixed_max"


@dataclass(frozen=True, slots=True)
class Scorer:
    """One column of scores to evaluate.

    Attributes:
        name: name in results and reports.
        column: name of the column.
        values: finite scores of the evaluated rows [N].
        calibration: finite scores of benign calibration rows [M], one for each prompt.
        floor: the value of rows without a score, in both arrays. It lies below all scores, so a threshold at
            the floor flags every row with a score. It is minus infinity if no row lacks a score.
    """

    name: str
    column: str
    values: Floats
    calibration: Floats | None
    floor: float = -np.inf


def collect_scorers(
    table: ScoresTable, calibration: ScoresTable | None, baselines: Sequence[Baseline]
) -> list[Scorer]:
    """Collect the scorers of a table, the deciding score first.

    Its parts, the prompt alone, the length alone and all baselines follow. Extra columns named
    `baseline_NAME` are baselines too. A score of minus infinity means that nothing in the row could flag.

    Args:
        table: scores of the exchanges to evaluate.
        calibration: scores of calibration exchanges; its benign prompts are used.
        baselines: further scorers.

    Raises:
        ExchangeError: a deciding score is NaN or plus infinity, a baseline lacks rows, or two scorers have
            the same name.
    """
    benign = None if calibration is None else benign_prompts(calibration)
    columns = [("mixed" if table.has("classifier_max") else "probe", "mixed_max")]
    if table.has("classifier_max"):
        columns += [("probe", "probe_max"), ("classifier", "classifier_max")]
    columns += [("prompt_alone", "max_prompt"), ("length_alone", "")]
    names = [name for name in table.table.column_names if name.startswith(BASELINE_PREFIX)]
    columns += [(name.removeprefix(BASELINE_PREFIX), name) for name in names]
    scorers = [
        _scorer(name, column, table, benign) for name, column in columns if not column or table.has(column)
    ]
    scorers += [_joined(baseline, table) for baseline in baselines]
    known = [scorer.name for scorer in scorers]
    repeated = {name for name in known if known.count(name) > 1}
    if repeated:
        raise ExchangeError(f"two scorers are named {min(repeated)}; give each baseline a name of its own")
    return scorers


def benign_prompts(calibration: ScoresTable) -> ScoresTable:
    """Select the rows that thresholds come from: the first row of each prompt, without harmful rows."""
    # NaN >= 0.5 is false: unlabelled traffic counts as benign.
    rows = np.flatnonzero(~(calibration.labels >= 0.5))
    _, first = np.unique(np.asarray(calibration.groups, dtype=str)[rows], return_index=True)
    return calibration.select(rows[np.sort(first)])


def threshold_of(scorer: Scorer, benign_values: Floats, fpr: float) -> tuple[float, str] | None:
    """Return a scorer's threshold at `fpr` and its origin, or None if there is no benign score.

    The threshold is a plain quantile of the scorer's calibration values. Without them it comes from
    `benign_values` [M], the evaluated benign scores. The origin is `calibration` or `evaluation`.
    """
    if scorer.calibration is not None and len(scorer.calibration):
        return plain_quantile_threshold(scorer.calibration, fpr), "calibration"
    if len(benign_values):
        return plain_quantile_threshold(benign_values, fpr), "evaluation"
    return None


def align(first: ScoresTable, second: ScoresTable) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the row numbers in each table [N] of the exchanges that both tables hold.

    If an id occurs several times, its n-th row in one table goes with its n-th row in the other.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for row, identity in enumerate(second.ids):
        places[identity].append(row)
    pairs = []
    used: dict[str, int] = defaultdict(int)
    for row, identity in enumerate(first.ids):
        if used[identity] < len(places.get(identity, ())):
            pairs.append((row, places[identity][used[identity]]))
            used[identity] += 1
    matched = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def _scorer(name: str, column: str, table: ScoresTable, benign: ScoresTable | None) -> Scorer:
    def read(part: ScoresTable) -> Floats:
        return part.floats(column) if column else part.lengths

    values = read(table)
    bad = int((np.isnan(values) | (values == np.inf)).sum())
    if column == "mixed_max" and bad:
        raise ExchangeError(f"{bad} rows have a mixed_max that is NaN or infinite; score them again")
    usable = benign is not None and (not column or benign.has(column))
    return _ranked(name, column or "length", values, read(benign) if benign and usable else None)


def _joined(baseline: Baseline, table: ScoresTable) -> Scorer:
    place = {identity: row for row, identity in enumerate(baseline.scores.ids)}
    missing = [identity for identity in table.ids if identity not in place]
    if missing:
        raise ExchangeError(
            f"baseline {baseline.name} has no score for {len(missing)} exchanges, among them {missing[0]}; "
            "score it on the same file"
        )
    values = baseline.scores.floats(baseline.column)[[place[identity] for identity in table.ids]]
    benign = None if baseline.calibration is None else benign_prompts(baseline.calibration)
    calibration = None if benign is None else benign.floats(baseline.column)
    return _ranked(baseline.name, baseline.column, values, calibration)


def _ranked(name: str, column: str, values: Floats, calibration: Floats | None) -> Scorer:
    """Create a scorer whose values are finite and ranked as before. Rows without a score rank lowest."""
    both = values if calibration is None else np.concatenate([values, calibration])
    finite = np.isfinite(both)
    if finite.all():
        return Scorer(name, column, values, calibration)
    lowest, highest = (both[finite].min(), both[finite].max()) if finite.any() else (0.0, 0.0)
    # Both tables share one floor. With two floors, rows at the higher one would lie above a threshold at
    # the lower one.
    floor = float(lowest) - 1
    ranked = np.where(finite, both, np.where(both == np.inf, highest + 1, floor))
    own = None if calibration is None else ranked[len(values) :]
    return Scorer(name, column, ranked[: len(values)], own, floor)
