"""The cascade frontier: cost and detections at each escalation threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lockgate.calibration import ESCALATIONS
from lockgate.evaluation import Clusters, Estimate, rate_by_prompt
from recipes.reproduce_ccpp.study.systems import Systems

__all__ = ["FrontierPoint", "trace_frontier"]


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A two-stage system at one escalation threshold. Its cut is set again for the same share of benign traffic.

    Compute is in per cent of the study's reference.

    Attributes:
        escalation: share of calibration prompts that is allowed above `escalate`.
        escalate: escalation threshold. None: everything is judged.
        escalated: share of benign test exchanges that reached stage 2.
        tpr: TPR at the study's operating point.
    """

    system: str
    escalation: float
    escalate: float | None
    escalated: float
    relative_compute_engine: float
    relative_compute_front: float
    tpr: Estimate | None


def trace_frontier(
    systems: Systems,
    name: str,
    *,
    calibration: str,
    benign: str,
    harmful: Sequence[str],
    share: float,
    reference_flops: float,
    clusters: Clusters,
    escalations: Sequence[float] = ESCALATIONS,
) -> tuple[FrontierPoint, ...]:
    """Sweep the escalation threshold of a two-stage system. The mixing weight stays as it was chosen.

    `clusters` are the prompts of the harmful rows of the `harmful` parts, one part after the other.
    """
    points = []
    for escalation in escalations:
        gate = replace(systems.gates[name], escalate=systems.escalate_at(name, escalation))
        cut = systems.cut(systems.gated(name, calibration, gate), share)
        ordinary = systems.gated(name, benign, gate)
        found = [systems.gated(name, part, gate).values[systems.harmful(part)] > cut for part in harmful]
        escalated = ordinary.escalated if ordinary.escalated is not None else np.zeros(0)
        points.append(
            FrontierPoint(
                name,
                escalation,
                gate.escalate if np.isfinite(gate.escalate) else None,
                float(escalated.mean()),
                100 * float(ordinary.cost.engine.mean()) / reference_flops,
                100 * float(ordinary.cost.front.mean()) / reference_flops,
                rate_by_prompt(np.concatenate(found), clusters),
            )
        )
    return tuple(points)
