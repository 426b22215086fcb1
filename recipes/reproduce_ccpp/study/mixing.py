"""Ensembles against the mixing weight: two scorers on every block, without a gate (CC++ section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lockgate.evaluation import Clusters, Estimate, Floats, log_auroc, rate_by_prompt
from recipes.reproduce_ccpp.study.blocks import mix
from recipes.reproduce_ccpp.study.systems import Systems, cut_at

__all__ = ["Mixing", "MixingPoint", "mix_over_weights"]

MIXING_WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))


@dataclass(frozen=True, slots=True)
class MixingPoint:
    """An ensemble at one weight of `first`: TPR by flagged share, and log-FPR AUROC on the test parts."""

    weight: float
    tpr: Mapping[str, Estimate | None]
    log_auroc: float | None


@dataclass(frozen=True, slots=True)
class Mixing:
    """An ensemble of two scorers over the weights. `chosen` is the weight of the two-stage system, if there is one."""

    first: str
    second: str
    chosen: float | None
    points: tuple[MixingPoint, ...]


def mix_over_weights(
    systems: Systems,
    name: str,
    *,
    names: tuple[str, str],
    calibration: str,
    benign: str,
    harmful: Sequence[str],
    shares: Sequence[float],
    clusters: Clusters,
    weights: Sequence[float] = MIXING_WEIGHTS,
) -> Mixing:
    """Mix both stages of a two-stage system on every block that both have read.

    `clusters` are the prompts of the harmful rows of the `harmful` parts, one part after the other.
    """
    gate = systems.gates[name]
    points = []
    for weight in weights:

        def values(part: str, weight: float = weight) -> Floats:
            blocks = systems.blocks(name, part)
            both = systems.may_flag(blocks.present & ~np.isnan(blocks.screen) & ~np.isnan(blocks.verdict))
            return np.asarray(mix(blocks, replace(gate, weight=weight), both).max(axis=1, initial=-np.inf))

        reference = values(calibration)[systems.rows]
        found = np.concatenate([values(part)[systems.harmful(part)] for part in harmful])
        ordinary = values(benign)
        tpr = {f"{share:g}": rate_by_prompt(found > cut_at(reference, share), clusters) for share in shares}
        labels = np.arange(len(found) + len(ordinary)) < len(found)
        area = log_auroc(np.concatenate([found, ordinary]), labels)
        points.append(MixingPoint(weight, tpr, area if np.isfinite(area) else None))
    return Mixing(*names, gate.weight, tuple(points))
