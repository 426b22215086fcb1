"""Figures of the guard on rows that neither trained it nor set its threshold."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._inputs import BuildInputs, BuildProgress
from lockgate.assembly._plan import TrainingPlan
from lockgate.assembly._rows import REFUSAL
from lockgate.classifiers.text import TextBaseline
from lockgate.durable import hash_path
from lockgate.errors import TrainingError
from lockgate.evaluation import Breakdown, Estimate, EvaluationResult, ScorerResult, evaluate, exact_rate
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import score_file

SCORES = "scores"
OWN = "guard"
# A share of fewer prompts says little.
_FEW = 10


def score_part(
    folder: BuildFolder, guard: Guard, source: Path, name: str, inputs: BuildInputs, *, blocks: bool = False
) -> ScoresTable:
    """Score a file with a guard, or take the scores from the folder if they are there.

    With `blocks` the second stage judges every block, and the trace lies beside the table.
    """
    (folder.path / SCORES).mkdir(exist_ok=True)
    target = f"{SCORES}/{name}.parquet"
    trace = trace_of(name)
    key = {"guard": guard.sha256, "source": hash_path(source), **({"blocks": True} if blocks else {})}
    total = sum(1 for _ in read_exchanges(source))
    if not total:
        # Processes would load a model to score nothing.
        return ScoresTable.from_rows([])

    def score() -> dict[str, Any]:
        score_file(
            guard,
            source,
            folder.path / target,
            workers=inputs.workers,
            blocks=folder.path / trace if blocks else None,
            all_blocks=blocks,
            report=lambda done: inputs.watch(
                BuildProgress(f"score {name}", min(done, total), total, "exchanges")
            ),
        )
        return {"rows": total}

    folder.step(f"score-{name}", key, [target, trace] if blocks else [target], score)
    return ScoresTable.read(folder.path / target)


def trace_of(name: str) -> str:
    """Return the file of a part's block trace, relative to the build's folder."""
    return f"{SCORES}/{name}.blocks.parquet"


def with_baseline(
    training: Sequence[Exchange],
    parts: Mapping[str, tuple[Sequence[Exchange], ScoresTable]],
    plan: TrainingPlan,
) -> dict[str, ScoresTable]:
    """Add a column of the text baseline to the tables. It is trained on the same rows as the probe."""
    try:
        # Copies of a reviewed exchange share its prompt, so one fold holds all of them.
        baseline = TextBaseline.fit(training, [prompt_group(row) for row in training], plan.baseline)
    except TrainingError:
        # Too few groups for its folds: the report has no baseline then.
        return {name: table for name, (_, table) in parts.items()}
    return {
        name: table.with_column("baseline_text", baseline.decision_function(rows)) if len(table) else table
        for name, (rows, table) in parts.items()
    }


def measure(
    table: ScoresTable, benign: ScoresTable, *, name: str, provenance: Mapping[str, Any]
) -> EvaluationResult | None:
    """Compute all figures over labelled rows with an answer. Return None if there is no such row."""
    table = table.select(answered(table))
    if np.isnan(table.labels).all():
        return None
    return evaluate(table, name=name, calibration=benign, provenance=provenance)


def answered(table: ScoresTable) -> NDArray[np.bool_]:
    """Return a mask [N] of rows with an answer. A prompt alone is never flagged and would count as missed."""
    return ~np.isnan(table.floats("max_answer"))


def is_refusal(table: ScoresTable) -> NDArray[np.bool_]:
    """Return a mask [N] of refusals from the factory's templates."""
    return np.array([source == REFUSAL for source in table.texts("source")], dtype=bool)


def without_refusals(table: ScoresTable) -> ScoresTable:
    """Return the rows that count for false-alarm rates and a provisional threshold."""
    return table.select(~is_refusal(table))


def leave_out(table: ScoresTable, ids: Collection[str]) -> ScoresTable:
    """Return the rows without these ids."""
    gone = set(ids)
    return table if not gone else table.select(np.array([name not in gone for name in table.ids]))


def summarise_refusals(table: ScoresTable) -> dict[str, Any] | None:
    """Return how often template refusals are flagged, or None if there are none."""
    found = table.select(is_refusal(table))
    rate = exact_rate(found.flagged, found.groups)
    return None if rate is None else {"n": rate.n, "n_prompts": rate.n_prompts, "rate": _plain(rate)}


def summarise(result: EvaluationResult) -> dict[str, Any]:
    """Return the figures of a build's report, at the guard's own threshold, with intervals."""
    deciding = result.scorers[0]
    point = next(point for point in deciding.operating_points if point.name == OWN)
    baseline = next((scorer for scorer in result.scorers if scorer.name == "text"), None)
    return {
        "name": result.name,
        "n_harmful": result.n_harmful,
        "n_harmless": result.n_benign,
        "n_prompts": result.n_prompts,
        "tpr": _plain(point.tpr),
        "fpr": _plain(point.realised_fpr),
        "auroc": _plain(deciding.auroc),
        "tpr_by_category": _parts(deciding.tpr_by_category),
        "fpr_by_category": _parts(deciding.fpr_by_category),
        "tpr_by_kind": _parts(deciding.tpr_by_source),
        "fpr_by_kind": _parts(deciding.fpr_by_source),
        "at_one_percent": {"probe": _at(deciding), "text_baseline": _at(baseline)},
        "text_baseline_auroc": None if baseline is None else _plain(baseline.auroc),
        "thin": [part.key for part in deciding.tpr_by_category if part.n_prompts < _FEW],
    }


def _at(scorer: ScorerResult | None) -> dict[str, Any] | None:
    if scorer is None:
        return None
    return next((_plain(point.tpr) for point in scorer.operating_points if point.name == "0.01"), None)


def _parts(parts: Sequence[Breakdown]) -> list[dict[str, Any]]:
    return [
        {"key": part.key, "n": part.n, "n_prompts": part.n_prompts, "rate": _plain(part.rates.get(OWN))}
        for part in parts
    ]


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)
