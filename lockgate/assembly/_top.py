"""The top of the traffic: the exchanges that set the threshold, named for a person to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._rows import BuildRows
from lockgate.assembly._threshold import cut_of, exclusions_of
from lockgate.calibration import Calibration, Exclusion, choose_threshold
from lockgate.errors import CalibrationError
from lockgate.exchanges import write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import with_score

REVIEW = "review.jsonl"
_SHOWN = 20
_LEFT_OUT = (0, 1, 2, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The sample's prompts that nobody has reviewed, highest score first: their rows in the table."""

    rows: NDArray[np.int64]
    table: ScoresTable

    def ids(self, count: int) -> list[str]:
        every = self.table.ids
        return [every[row] for row in self.rows[:count].tolist()]


def read_top(
    folder: BuildFolder,
    guard: Guard,
    rows: BuildRows,
    table: ScoresTable,
    judged: Mapping[str, ScoresTable],
) -> dict[str, Any] | None:
    """Write the highest exchanges of the traffic to `review.jsonl`, and say what each of them costs.

    Reviewed exchanges are not named again. The scores are those that set the threshold: nothing is scored.

    Args:
        folder: the build's folder.
        guard: the guard with its threshold.
        rows: the rows of the build.
        table: scores of the calibration rows.
        judged: scores of labelled rows that neither trained nor calibrate, by name. Recall is of these.

    Returns:
        Ids and scores, and the recall if the first few were left out; None if no traffic set the threshold.
    """
    calibration = guard.calibration
    if calibration is None:
        (folder.path / REVIEW).unlink(missing_ok=True)
        return None
    ranked = _rank(rows, table)
    scores, categories = table.floats("mixed_max"), table.texts("verdict_category")
    cut = cut_of(guard)
    # The calibration rows and their table have one order.
    chosen = ranked.rows[:_SHOWN].tolist()
    named = [
        with_score(
            rows.calibration[row],
            guard,
            float(scores[row]),
            cut,
            categories[row],
            part="calibration",
            rank=rank,
        )
        for rank, row in enumerate(chosen, 1)
    ]
    write_exchanges(folder.path / REVIEW, named)
    return {
        "path": str(folder.path / REVIEW),
        "confirmed": len(rows.confirmed),
        "excluded": len(rows.excluded),
        "highest": [
            {"id": row.id, "source": row.source, "score": float(scores[place])}
            for row, place in zip(named, chosen, strict=True)
        ],
        "without": _without(calibration, rows, ranked, judged),
    }


def _rank(rows: BuildRows, table: ScoresTable) -> _Ranked:
    """Rank the rows that stand for their prompts in the sample: of each prompt the first one."""
    reviewed = {*rows.excluded, *rows.confirmed}
    excluded = set(rows.excluded)
    first: dict[str, int] = {}
    for place, (identity, group) in enumerate(zip(table.ids, table.groups, strict=True)):
        if identity not in excluded:
            first.setdefault(group, place)
    ids = table.ids
    places = np.array([place for place in first.values() if ids[place] not in reviewed], dtype=np.int64)
    scores = table.floats("mixed_max")[places]
    # The second stage may never have been asked about a row: it has no score then.
    known = np.isfinite(scores)
    places, scores = places[known], scores[known]
    return _Ranked(places[np.argsort(-scores, kind="stable")], table)


def _without(
    calibration: Calibration, rows: BuildRows, ranked: _Ranked, judged: Mapping[str, ScoresTable]
) -> list[dict[str, Any]]:
    """Return cut and recall with the first few exchanges left out of the sample, as if they were harmful."""
    harmful = {
        name: table.floats("mixed_max")[(table.labels >= 0.5) & ~np.isnan(table.floats("max_answer"))]
        for name, table in judged.items()
    }
    found = []
    for count in _LEFT_OUT:
        if count > len(ranked.rows):
            break
        cut = _cut(calibration, rows, ranked, count)
        if cut is None:
            break
        recall = [
            {"name": name, "n": len(scores), "share": float((scores > cut).mean())}
            for name, scores in harmful.items()
            if len(scores)
        ]
        found.append({"left_out": count, "cut": cut, "recall": recall})
    return found


def _cut(calibration: Calibration, rows: BuildRows, ranked: _Ranked, count: int) -> float | None:
    """Return the score above which the guard would flag; None if too few prompts were left for the budget."""
    table = ranked.table
    left_out = [Exclusion(name, "harmful for once") for name in ranked.ids(count)]
    try:
        chosen = choose_threshold(
            table.floats("mixed_max"),
            table.groups,
            calibration.budget,
            calibration.tolerance,
            exclusions=(*exclusions_of(rows), *left_out),
            confidence=calibration.confidence,
            ids=table.ids,
            unjudged=bool(np.isneginf(table.floats("mixed_max")).any()),
        )
    except CalibrationError:
        return None
    return chosen.threshold - chosen.tolerance


def describe_top(top: Mapping[str, Any] | None) -> list[str]:
    """Say in lines which exchanges a person should read, and what depends on them."""
    if top is None:
        return []
    read = top["confirmed"] + top["excluded"]
    lines = [
        f"the {len(top['highest'])} highest exchanges of your traffic that set the threshold are in "
        f"{top['path']}; read them"
        + (f" ({read} were read: {top['excluded']} break the policy and are left out)" if read else "")
    ]
    for name in [part["name"] for part in top["without"][0]["recall"]] if top["without"] else []:
        shares = [
            (row["left_out"], next(part for part in row["recall"] if part["name"] == name))
            for row in top["without"]
        ]
        told = ", ".join(f"{part['share']:.1%} without the first {count}" for count, part in shares[1:])
        lines.append(f"  {name}: {shares[0][1]['share']:.1%} of {shares[0][1]['n']} harmful flagged; {told}")
    return lines
