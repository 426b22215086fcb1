"""Comparisons of a study's single scorers: against the exchange classifier, and by rank correlation."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import ExchangeError
from lockgate.evaluation import Clusters, Detections, Floats, at_least_as_robust, exact_rate, pool
from recipes.reproduce_ccpp.study.data import StudyData
from recipes.reproduce_ccpp.study.result import ScorerComparison
from recipes.reproduce_ccpp.study.spearman import RankCorrelations, rank_correlations
from recipes.reproduce_ccpp.study.systems import SystemScores, cut_at

__all__ = ["compare_scorers", "correlate_scorers"]

Scores = Mapping[tuple[str, str], SystemScores]
Shared = tuple[NDArray[np.intp], Floats]


def compare_scorers(
    data: StudyData, scores: Scores, calibration_rows: NDArray[np.intp]
) -> tuple[ScorerComparison, ...]:
    """Compare the probe, the cascade's screen and every other scorer with the exchange classifier.

    Each scorer takes its threshold for the claim point from the calibration rows that both have read.

    Raises:
        ExchangeError: a scorer has no calibration rows or no harmful rows.
    """
    names = ["probe", *([data.spec.screen] if data.spec.screen is not None else []), *data.spec.others]
    return tuple(_Pair(data, scores, name).compare(calibration_rows) for name in names)


def correlate_scorers(data: StudyData, scores: Scores) -> RankCorrelations | None:
    """Return rank correlations over the harmful rows that every scorer has read; None if they are too few."""
    spec = data.spec
    models = [name for name in (spec.input, spec.output, spec.screen) if name is not None]
    models += list(spec.others)
    columns: dict[str, list[Floats]] = {name: [] for name in ("probe", "exchange", *models)}
    groups = []
    for part in spec.harmful:
        shared = {name: data.shared(name, part) for name in models}
        if any(found is None for found in shared.values()):
            continue
        rows = np.flatnonzero(data.reference(part).harmful)
        for found in shared.values():
            rows = np.intersect1d(rows, found[0]) if found is not None else rows
        groups.append(data.reference(part).groups[rows])
        for name in ("probe", "exchange"):
            columns[name].append(scores[name, part].values[rows])
        for name, found in shared.items():
            if found is not None:
                columns[name].append(found[1][np.searchsorted(found[0], rows)])
    if not groups or sum(len(own) for own in groups) < 3:
        return None
    clusters = Clusters(np.concatenate(groups), spec.resamples, spec.seed)
    return rank_correlations({name: np.concatenate(own) for name, own in columns.items()}, clusters)


class _Pair:
    """One scorer and the exchange classifier, on the rows that both have read."""

    def __init__(self, data: StudyData, scores: Scores, name: str) -> None:
        self._data = data
        self._scores = scores
        self._name = name

    def compare(self, calibration_rows: NDArray[np.intp]) -> ScorerComparison:
        spec = self._data.spec
        cuts, n = self._cuts(calibration_rows)
        found: tuple[list[Detections], list[Detections]] = ([], [])
        for parts in spec.harmful_sets:
            pairs = [pair for part in parts if (pair := self._detections(part, cuts)) is not None]
            if pairs:
                for side, own in enumerate(zip(*pairs, strict=True)):
                    found[side].append(pool(own))
        if not any(len(own.flags) for own in found[0]):
            raise ExchangeError(
                f"scorer {self._name} has read no harmful row of the study; score it there too"
            )
        against = at_least_as_robust(
            found[1],
            found[0],
            names=("exchange", self._name),
            fpr=spec.claim_point,
            resamples=spec.resamples,
            seed=spec.seed,
        )
        benign = self._shared(spec.benign)
        flagged = None
        if benign is not None:
            groups = self._data.reference(spec.benign).groups[benign[0]]
            flagged = exact_rate(benign[1] > cuts[0], groups)
        return ScorerComparison(
            self._name,
            n,
            against.difference.n,
            against.tpr_second,
            against.tpr_first,
            against.difference,
            (against.difference.lower or 0.0) > 0,
            flagged,
        )

    def _detections(self, part: str, cuts: Sequence[float]) -> tuple[Detections, Detections] | None:
        shared = self._shared(part)
        if shared is None:
            return None
        reference = self._data.reference(part)
        wanted = reference.harmful[shared[0]]
        groups = reference.groups[shared[0]][wanted]
        first, second = (
            Detections((values > cut)[wanted], groups)
            for values, cut in zip(self._sides(part, shared), cuts, strict=True)
        )
        return first, second

    def _cuts(self, calibration_rows: NDArray[np.intp]) -> tuple[Sequence[float], int]:
        spec = self._data.spec
        shared = self._shared(spec.calibration)
        if shared is None:
            raise ExchangeError(f"scorer {self._name} has no {spec.calibration}.parquet; score it there too")
        wanted = np.isin(shared[0], calibration_rows)
        sides = self._sides(spec.calibration, shared)
        return [cut_at(values[wanted], spec.claim_point) for values in sides], int(wanted.sum())

    def _shared(self, part: str) -> Shared | None:
        if self._name == "probe":
            values = self._scores["probe", part].values
            return np.arange(len(values)), values
        return self._data.shared(self._name, part)

    def _sides(self, part: str, shared: Shared) -> tuple[Floats, Floats]:
        return shared[1], self._scores["exchange", part].values[shared[0]]
