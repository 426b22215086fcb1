"""The paper's comparison of systems, computed from a study's tables."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from lockgate.errors import ExchangeError
from lockgate.evaluation import (
    Clusters,
    Delay,
    Detections,
    Floats,
    Mask,
    Robustness,
    at_least_as_robust,
    exact_rate,
    macro_rate,
    pool,
    rate_by_prompt,
    summarise_delay,
)
from recipes.reproduce_ccpp.study.data import StudyData
from recipes.reproduce_ccpp.study.delay import delivered
from recipes.reproduce_ccpp.study.frontier import FrontierPoint, trace_frontier
from recipes.reproduce_ccpp.study.mixing import Mixing, mix_over_weights
from recipes.reproduce_ccpp.study.result import PointRates, SetRates, StudyResult, SystemResult
from recipes.reproduce_ccpp.study.scorers import compare_scorers, correlate_scorers
from recipes.reproduce_ccpp.study.spec import StudySpec
from recipes.reproduce_ccpp.study.systems import Cost, Systems
from recipes.reproduce_ccpp.study.views import StudyFlags, views_of

__all__ = ["study"]

_PAIRS = (
    ("exchange", "last_generation"),
    ("cascade", "exchange"),
    ("production", "exchange"),
    ("production", "probe"),
    ("production", "last_generation"),
)


def study(
    spec: StudySpec | str | os.PathLike[str], *, provenance: Mapping[str, Any] | None = None
) -> StudyResult:
    """Compute every figure of a study from its scores tables and block traces.

    Raises:
        ConfigError: the spec is wrong.
        ExchangeError: the tables do not fit together.
        CalibrationError: the calibration part cannot give a threshold.
    """
    settings = spec if isinstance(spec, StudySpec) else StudySpec.read(spec)
    return _Study(StudyData(settings)).result(provenance or {})


class _Study:
    """The tables of a study, and the values that its figures share."""

    def __init__(self, data: StudyData) -> None:
        self.data = data
        self.spec = spec = data.spec
        self.systems = Systems(data)
        self.names = (*self.systems.names, "probe")
        self.scores = {
            (name, part): self.systems.score(name, part)
            for name in self.names
            for part in (spec.calibration, *spec.tested)
        }
        self.harmful = {part: data.reference(part).harmful for part in spec.harmful}
        self.groups = {part: data.reference(part).groups for part in spec.tested}
        pooled = np.concatenate([self.groups[part][self.harmful[part]] for part in spec.harmful])
        if not len(pooled):
            raise ExchangeError("no harmful row in the harmful parts; expected labelled exchanges")
        self.clusters = Clusters(pooled, spec.resamples, spec.seed)
        self.reference = "last_generation" if "last_generation" in self.names else "exchange"
        self.points = (spec.operating_point, spec.claim_point)
        self.cuts = {
            (name, share): self.systems.cut(self.scores[name, spec.calibration], share)
            for name in self.names
            for share in self.points
        }

    def result(self, provenance: Mapping[str, Any]) -> StudyResult:
        spec = self.spec
        found = {name: self.system(name) for name in self.names}
        flags = StudyFlags(
            self.data,
            {
                (name, part): self.flags(name, part, self.points[0])
                for name in self.names
                for part in spec.tested
            },
        )
        return StudyResult(
            name=spec.name,
            operating_point=spec.operating_point,
            claim_point=spec.claim_point,
            n_calibration=len(self.systems.rows),
            n_benign=len(self.groups[spec.benign]),
            n_harmful=len(self.clusters.index),
            n_harmful_prompts=self.clusters.count,
            compute_reference=self.reference,
            systems=tuple(found.values()),
            robustness=tuple(self.robustness()),
            scorers=compare_scorers(self.data, self.scores, self.systems.rows),
            spearman=correlate_scorers(self.data, self.scores),
            mixing=tuple(self.mixing()),
            frontier=tuple(self.frontier()),
            delay=tuple(self.delay(name) for name in self.names),
            views=views_of(flags, self.names),
            warnings=tuple(self.warnings(found)),
            provenance=dict(provenance),
        )

    def flags(self, name: str, part: str, share: float) -> Mask:
        return self.scores[name, part].values > self.cuts[name, share]

    def system(self, name: str) -> SystemResult:
        ordinary = self.scores[name, self.spec.benign]
        base = self.scores[self.reference, self.spec.benign].cost
        gate = self.systems.gates.get(name)
        share = _relative(ordinary.cost, base)
        escalated = ordinary.escalated
        return SystemResult(
            name,
            *share,
            None if escalated is None else exact_rate(escalated, self.groups[self.spec.benign]),
            gate.escalate if gate is not None and np.isfinite(gate.escalate) else None,
            None if gate is None else gate.weight,
            tuple(self.point(name, share) for share in self.points),
        )

    def point(self, name: str, share: float) -> PointRates:
        spec, cut = self.spec, self.cuts[name, share]
        pooled = np.concatenate([self.flags(name, p, share)[self.harmful[p]] for p in spec.harmful])
        kinds = [(p, "harmful") for p in spec.harmful] + [(p, "hard_benign") for p in spec.hard_benign]
        kinds += [(p, "disguised") for p in spec.disguised]
        return PointRates(
            share,
            cut if np.isfinite(cut) else None,
            rate_by_prompt(pooled, self.clusters),
            macro_rate(self.detections(name, share), resamples=spec.resamples, seed=spec.seed),
            exact_rate(self.flags(name, spec.benign, share), self.groups[spec.benign]),
            tuple(self.set_rates(name, part, kind, share) for part, kind in kinds),
        )

    def set_rates(self, name: str, part: str, kind: str, share: float) -> SetRates:
        flags, groups = self.flags(name, part, share), self.groups[part]
        harmful = self.data.reference(part).harmful
        clusters = Clusters(groups[harmful], self.spec.resamples, self.spec.seed)
        return SetRates(
            part,
            kind,
            rate_by_prompt(flags[harmful], clusters),
            exact_rate(flags[~harmful], groups[~harmful]),
        )

    def detections(self, name: str, share: float) -> list[Detections]:
        found = {
            p: Detections(self.flags(name, p, share)[self.harmful[p]], self.groups[p][self.harmful[p]])
            for p in self.spec.harmful
        }
        return [pool([found[p] for p in parts]) for parts in self.spec.harmful_sets]

    def robustness(self) -> list[Robustness]:
        return [
            at_least_as_robust(
                self.detections(first, share),
                self.detections(second, share),
                names=(first, second),
                fpr=share,
                macro=macro,
                resamples=self.spec.resamples,
                seed=self.spec.seed,
            )
            for first, second in _PAIRS
            if first in self.names and second in self.names
            for share in self.points
            for macro in (False, True)
        ]

    def delay(self, name: str) -> Delay:
        halted, tokens, share = [], [], []
        for part in self.spec.harmful:
            scores, rows = self.scores[name, part], self.harmful[part]
            stopped, out = delivered(scores, self.cuts[name, self.points[0]])
            length = np.maximum(scores.ends[:, -1], 1)
            halted.append(stopped[rows])
            tokens.append(out[rows])
            share.append(np.where(stopped, out / length, np.inf)[rows])
        columns = (np.concatenate(halted), np.concatenate(tokens), np.concatenate(share))
        return summarise_delay(name, *columns, self.clusters)

    def frontier(self) -> list[FrontierPoint]:
        spec = self.spec
        flops = float(self.scores[self.reference, spec.benign].cost.engine.mean())
        return [
            point
            for name in self.systems.gates
            for point in trace_frontier(
                self.systems,
                name,
                calibration=spec.calibration,
                benign=spec.benign,
                harmful=spec.harmful,
                share=self.points[0],
                reference_flops=flops,
                clusters=self.clusters,
            )
        ]

    def mixing(self) -> list[Mixing]:
        spec = self.spec
        pairs = {"production": ("probe", "exchange"), "cascade": ("screen", "exchange")}
        return [
            mix_over_weights(
                self.systems,
                name,
                names=pairs[name],
                calibration=spec.calibration,
                benign=spec.benign,
                harmful=spec.harmful,
                shares=self.points,
                clusters=self.clusters,
            )
            for name in self.systems.gates
        ]

    def warnings(self, found: Mapping[str, SystemResult]) -> list[str]:
        notes = []
        n = len(self.systems.rows)
        for share in self.points:
            if share * n < 1:
                notes.append(
                    f"{n} calibration prompts are too few for a share of {share:g}: cuts are maxima."
                )
        everything = [name for name, system in found.items() if system.points[0].cut is None]
        if everything:
            notes.append(
                f"{', '.join(everything)}: fewer benign prompts escalate than may be flagged, so whatever is "
                "judged is flagged."
            )
        if not all(self.data.reference(part).table.has_groups for part in self.spec.tested):
            notes.append("A part has no prompt_group column: intervals are too narrow there.")
        return notes


def _relative(cost: Cost, base: Cost) -> tuple[float, float, float | None, float | None]:
    """FLOPs and CPU seconds, in the engine and in front, in per cent of the base's in the engine."""

    def share(spent: Floats, of: Floats) -> float | None:
        return 100 * float(spent.mean()) / float(of.mean()) if of.mean() > 0 else None

    flops = (share(cost.engine, base.engine) or 0.0, share(cost.front, base.engine) or 0.0)
    return (*flops, share(cost.cpu_engine, base.cpu_engine), share(cost.cpu_front, base.cpu_engine))
