"""What another precision or device does to a guard's scores, and the guard that goes on with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import Interval, check_sample, clopper_pearson
from lockgate.errors import CalibrationError, ConfigError
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._checks import benign_rows, check_traffic
from lockgate.traffic._evidence import Report, evidence_of, silent
from lockgate.traffic._overlap import known_prompts
from lockgate.traffic._plan import CalibrationPlan
from lockgate.traffic._staging import score_once


@dataclass(frozen=True, slots=True)
class Shift:
    """The change of a score over the exchanges in which both precisions gave it.

    Attributes:
        n: number of these exchanges.
        max_abs, mean_abs: largest and mean absolute difference; 0 if there are none.
    """

    n: int
    max_abs: float
    mean_abs: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """The same exchanges under one guard in two precisions or on two kinds of device.

    Attributes:
        guard: the guard as it computes now.
        before, after: how it computed when its threshold was set, and how it computes now.
        n: number of exchanges.
        decided: change of the score that decides. With two stages, exchanges that stage 2 judged both times.
        probe: change of the probe's largest smoothed logit.
        judged_once: exchanges that stage 2 judged in one precision only.
        new_flags, lost_flags: exchanges that are flagged only now, or were flagged only before.
        flagged_before, flagged_after: number of flags.
        scored: the scores as the guard computes now.
    """

    guard: Guard
    before: str
    after: str
    n: int
    decided: Shift
    probe: Shift
    judged_once: int
    new_flags: int
    lost_flags: int
    flagged_before: int
    flagged_after: int
    scored: ScoresTable

    @property
    def flag_changes(self) -> int:
        """Number of exchanges with another decision."""
        return self.new_flags + self.lost_flags

    @property
    def shares(self) -> tuple[Interval, Interval]:
        """The 95 % intervals of the flagged share before and after."""
        before, after = (clopper_pearson(k, self.n) for k in (self.flagged_before, self.flagged_after))
        return before, after

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        shares = [
            {"flagged": count, "share": count / self.n, "interval": list(interval)}
            for count, interval in zip((self.flagged_before, self.flagged_after), self.shares, strict=True)
        ]
        return {
            "before": self.before,
            "after": self.after,
            "n": self.n,
            "decided": asdict(self.decided),
            "probe": asdict(self.probe),
            "judged_once": self.judged_once,
            "flag_changes": self.flag_changes,
            "new_flags": self.new_flags,
            "lost_flags": self.lost_flags,
            "flagged_before": shares[0],
            "flagged_after": shares[1],
        }

    def keep(self) -> Guard:
        """Return the guard with its old threshold, recorded for the precision in which it computes now.

        Raises:
            CalibrationError: a decision changed, or the traffic does not qualify for the guard's budget, so
                that it can't show that the threshold still keeps it.
        """
        if self.flag_changes:
            raise CalibrationError(
                f"{self.flag_changes} of {self.n} decisions change in {self.after}; set the threshold anew "
                "(--recalibrate)"
            )
        calibration = self.guard.calibration
        if calibration is not None:
            table, _ = benign_rows(self.scored)
            check_sample(len(set(table.groups)), calibration.budget, calibration.confidence)
        note = (
            f"precision: the threshold was set in {self.before} and kept for {self.after}; on {self.n} "
            f"exchanges no decision changed, and scores moved by at most {self.decided.max_abs:.4f}"
        )
        return self.guard.with_precision(note)

    def recalibrate(self, files: Sequence[Path], plan: CalibrationPlan) -> Guard:
        """Return the guard with a threshold that this traffic sets in the new precision.

        Raises:
            CalibrationError: the traffic can't be calibrated on, as in `gather_evidence`.
        """
        known = known_prompts(self.guard, plan.training)
        check_traffic(files, known, plan)
        evidence = evidence_of(self.guard, self.scored, plan, known)
        return evidence.apply(evidence.choose())


def score_traffic(
    guard: Guard, files: Sequence[Path], folder: Path, *, workers: int = 1, report: Report = silent
) -> ScoresTable:
    """Score files into one table. Tables of finished files are kept in `folder`.

    Raises:
        ExchangeError: a file can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return ScoresTable.concat(
        [ScoresTable.read(score_once(guard, path, folder, workers=workers, report=report)) for path in files]
    )


def compare_precisions(guard: Guard, before: ScoresTable, after: ScoresTable) -> Transfer:
    """Compare a guard's scores of the same exchanges in two precisions.

    Args:
        guard: the guard as it computes now.
        before: scores in the precision in which its threshold was set.
        after: scores as it computes now. Their ids are looked up in `before`.

    Raises:
        ConfigError: the guard computes as when its threshold was set, or `before` lacks exchanges.
    """
    if guard.precision_shift is None:
        raise ConfigError(
            f"--transfer: the guard computes as its threshold was set ({guard.backbone.placement}); give "
            "another --dtype or --device"
        )
    before = _same_rows(before, after)
    if not len(after):
        raise ConfigError("--transfer: no exchange in the files")
    old, new = before.floats("mixed_max"), after.floats("mixed_max")
    decides = guard.record.decides
    flags = [scores > decides.flag - decides.tolerance for scores in (old, new)]
    record = guard.record.backbone
    return Transfer(
        guard=guard,
        before=f"{record.dtype} on {record.device}",
        after=str(guard.backbone.placement),
        n=len(after),
        decided=_shift(old, new),
        probe=_shift(before.floats("probe_max"), after.floats("probe_max")),
        judged_once=int((np.isfinite(old) != np.isfinite(new)).sum()),
        new_flags=int((flags[1] & ~flags[0]).sum()),
        lost_flags=int((flags[0] & ~flags[1]).sum()),
        flagged_before=int(flags[0].sum()),
        flagged_after=int(flags[1].sum()),
        scored=after,
    )


def _shift(old: NDArray[np.float64], new: NDArray[np.float64]) -> Shift:
    both = np.isfinite(old) & np.isfinite(new)
    moved = np.abs(new[both] - old[both])
    return Shift(int(both.sum()), float(moved.max(initial=0.0)), float(moved.mean()) if len(moved) else 0.0)


def _same_rows(before: ScoresTable, after: ScoresTable) -> ScoresTable:
    """Return the rows of `before` in the order of `after`. Equal ids are equal exchanges."""
    if before.ids == after.ids:
        return before
    places = {identity: row for row, identity in reversed(list(enumerate(before.ids)))}
    missing = [identity for identity in after.ids if identity not in places]
    if missing:
        raise ConfigError(
            f"--scores: {len(missing)} of {len(after)} exchanges are not in the tables, the first with id "
            f"{missing[0]}; give tables of the same exchanges"
        )
    return before.select([places[identity] for identity in after.ids])
