"""The evaluation of one scores table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lockgate.errors import ExchangeError
from lockgate.evaluation._breakdowns import by_key, by_length, histogram, ranked, roc_points, worst
from lockgate.evaluation._compare import RANKINGS, Decisions, draw_rankings, paired_differences
from lockgate.evaluation._curves import Floats, Mask, area
from lockgate.evaluation._intervals import RESAMPLES, Clusters, estimate_curves, exact_rate, rate_by_prompt
from lockgate.evaluation._result import (
    Breakdown,
    Comparison,
    EvaluationResult,
    OperatingPoint,
    ScorerResult,
    SourceAuroc,
)
from lockgate.evaluation._scorers import Baseline, Scorer, benign_prompts, collect_scorers, threshold_of
from lockgate.tables import ScoresTable

_READ_ROWS = 50


def evaluate(
    table: ScoresTable,
    *,
    name: str = "guard",
    calibration: ScoresTable | None = None,
    baselines: Sequence[Baseline] = (),
    fprs: Sequence[float] = (0.01, 0.001),
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Compute every figure of `table`: rankings, rates at thresholds, breakdowns and baselines.

    A soft label of 0.5 or more counts as harmful. Rows without a label are counted and left out. If only one
    label occurs, figures that need both are missing.

    Args:
        table: scores of the exchanges to evaluate.
        name: the guard's name in the report.
        calibration: scores whose benign prompts give the thresholds, as plain quantiles. Without it the
            evaluated benign rows give them. Such thresholds are optimistic, and a warning says so.
        baselines: scores of other scorers on the same exchanges.
        fprs: false-positive rates to set thresholds at.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        provenance: stored in the result as it is; see `collect_provenance`.

    Raises:
        ExchangeError: no row has a label, or a deciding score is NaN or plus infinity.
    """
    known = ~np.isnan(table.labels)
    if not known.any():
        raise ExchangeError("no row of the scores table has a label; an evaluation needs labelled exchanges")
    rows = table.select(known)
    harmful = rows.labels >= 0.5
    clusters = Clusters(rows.groups, resamples, seed)
    scorers = collect_scorers(rows, calibration, baselines)
    work = _Work(rows, harmful, clusters, tuple(fprs))
    results = tuple(work.evaluate(scorer, decides=i == 0) for i, scorer in enumerate(scorers))
    return EvaluationResult(
        name=name,
        n=len(rows),
        n_harmful=int(harmful.sum()),
        n_benign=int((~harmful).sum()),
        n_unlabelled=int((~known).sum()),
        n_prompts=clusters.count,
        n_calibration=0 if calibration is None else len(benign_prompts(calibration)),
        prompts_from="prompt_group" if rows.has_groups else "id",
        scorers=results,
        worst_source=worst(results[0].fpr_by_source, f"{min(fprs):g}"),
        versus=tuple(work.versus(scorers[0], other) for other in scorers[1:]),
        highest_benign=ranked(rows, scorers[0].values, ~harmful, highest=True, count=_READ_ROWS),
        lowest_harmful=ranked(rows, scorers[0].values, harmful, highest=False, count=_READ_ROWS),
        warnings=tuple(_warnings(rows, harmful, calibration, results, fprs)),
        provenance=dict(provenance or {}),
    )


class _Work:
    """The rows to evaluate, and what all scorers share."""

    def __init__(self, rows: ScoresTable, harmful: Mask, clusters: Clusters, fprs: tuple[float, ...]) -> None:
        self.rows = rows
        self.harmful = harmful
        self.clusters = clusters
        self.fprs = fprs
        self.sources = [str(value) for value in rows.texts("source")]
        self.categories = rows.texts("category")
        self._drawn: dict[str, Floats] = {}

    def evaluate(self, scorer: Scorer, decides: bool) -> ScorerResult:
        harmful, benign = self.harmful, ~self.harmful
        points, flags = self._operating_points(scorer, decides)
        ranking = estimate_curves(RANKINGS, scorer.values, harmful, self.clusters, self._drawn_for(scorer))

        def part(keys: Sequence[str | None], wanted: Mask, exact: bool) -> tuple[Breakdown, ...]:
            return by_key(keys, wanted, flags, self.clusters, exact=exact)

        return ScorerResult(
            name=scorer.name,
            column=scorer.column,
            auroc=ranking[0],
            log_auroc=ranking[1],
            operating_points=points,
            within_sources=self._within_sources(scorer),
            fpr_by_source=part(self.sources, benign, True),
            fpr_by_length=by_length(self.rows.lengths, benign, flags, self.clusters),
            fpr_by_category=part(self.categories, benign, True),
            tpr_by_source=part(self.sources, harmful, False),
            tpr_by_category=part(self.categories, harmful, False),
            roc=roc_points(scorer.values, harmful),
            histogram=histogram(scorer.values, harmful),
        )

    def versus(self, first: Scorer, second: Scorer) -> Comparison:
        sides = [
            Decisions(side.values, self._operating_points(side, False)[1], self._drawn_for(side))
            for side in (first, second)
        ]
        differences = paired_differences(sides[0], sides[1], self.harmful, self.clusters)
        return Comparison(first.name, second.name, len(self.rows), self.clusters.count, 0, 0, differences)

    def _drawn_for(self, scorer: Scorer) -> Floats | None:
        if self.harmful.all() or not self.harmful.any():
            return None
        if scorer.name not in self._drawn:
            self._drawn[scorer.name] = draw_rankings(scorer.values, self.harmful, self.clusters)
        return self._drawn[scorer.name]

    def _operating_points(
        self, scorer: Scorer, decides: bool
    ) -> tuple[tuple[OperatingPoint, ...], dict[str, Mask]]:
        points, flags = [], {}
        for fpr in self.fprs:
            found = threshold_of(scorer, scorer.values[~self.harmful], fpr)
            if found is None:
                continue
            threshold, origin = found
            flags[f"{fpr:g}"] = scorer.values > threshold
            shown = threshold if threshold > scorer.floor else None
            points.append(self._point(f"{fpr:g}", origin, fpr, shown, flags[f"{fpr:g}"]))
        if decides:
            flags["guard"] = self.rows.flagged
            points.append(self._point("guard", "guard", None, None, flags["guard"]))
        return tuple(points), flags

    def _point(
        self, name: str, origin: str, fpr: float | None, threshold: float | None, flags: Mask
    ) -> OperatingPoint:
        harmful, benign = self.harmful, ~self.harmful
        return OperatingPoint(
            name=name,
            origin=origin,
            fpr=fpr,
            threshold=threshold,
            tpr=rate_by_prompt(flags[harmful], self._clusters_of(harmful)),
            realised_fpr=exact_rate(flags[benign], self.clusters.index[benign]),
        )

    def _within_sources(self, scorer: Scorer) -> tuple[SourceAuroc, ...]:
        found = []
        sources = np.asarray(self.sources, dtype=str)
        for source in sorted(set(self.sources)):
            rows = sources == source
            harmful = self.harmful[rows]
            auroc = estimate_curves((area,), scorer.values[rows], harmful, self._clusters_of(rows))[0]
            if auroc is not None:
                found.append(SourceAuroc(source, int(harmful.sum()), int((~harmful).sum()), auroc))
        return tuple(found)

    def _clusters_of(self, rows: Mask) -> Clusters:
        return Clusters(self.clusters.index[rows], self.clusters.resamples, self.clusters.seed)


def _warnings(
    rows: ScoresTable,
    harmful: Mask,
    calibration: ScoresTable | None,
    results: Sequence[ScorerResult],
    fprs: Sequence[float],
) -> list[str]:
    notes = []
    if not rows.has_groups:
        notes.append(
            "No prompt_group column: every id counts as its own prompt, so intervals may be too narrow."
        )
    own = [
        result.name
        for result in results
        if any(point.origin == "evaluation" for point in result.operating_points)
    ]
    if own:
        notes.append(
            f"Thresholds of {', '.join(own)} come from the evaluated benign rows, which is optimistic."
        )
    if harmful.any() and not harmful.all() and not results[0].within_sources:
        notes.append(
            "No source holds both labels: AUROC over all rows may show that a scorer tells sources apart, "
            "not that it detects harm."
        )
    if calibration is not None:
        notes += _calibration_warnings(rows, harmful, calibration, fprs)
    return notes


def _calibration_warnings(
    rows: ScoresTable, harmful: Mask, calibration: ScoresTable, fprs: Sequence[float]
) -> list[str]:
    notes = []
    benign = benign_prompts(calibration)
    groups = np.asarray(rows.groups, dtype=str)[~harmful]
    shared = int(np.isin(groups, benign.groups).sum())
    if shared:
        notes.append(
            f"{shared} evaluated benign rows share a prompt with the calibration table: "
            "their flagged share does not test the threshold."
        )
    thin = [f"{fpr:g}" for fpr in fprs if fpr * len(benign) < 1]
    if thin:
        notes.append(
            f"{len(benign)} calibration prompts are too few for a share of {', '.join(thin)}: the threshold "
            "is their highest score."
        )
    return notes
