"""Calibration of a judge behind a guard's probe. The judge reads only what the probe escalates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import CascadeCalibration, calibrate_cascade
from lockgate.cascade import Cascade
from lockgate.errors import JudgeError
from lockgate.guards import Guard
from lockgate.judges import Judge, JudgeAddress, JudgeCost, KeptJudge, find_judge, open_judge
from lockgate.tables import ScoresTable
from lockgate.traffic._judge_report import (
    BEHIND,
    Arrangement,
    Comparer,
    Correlation,
    JudgeReport,
    probe_scores,
)
from lockgate.traffic._judged import Screening, judge_exchanges, judged_maxima
from lockgate.traffic._plan import CalibrationPlan, SecondStagePlan
from lockgate.traffic._staging import StagedScores


class Behind(NamedTuple):
    """A judge behind a probe, calibrated.

    Attributes:
        guard: the guard with its second stage and threshold.
        scored: the probe's scores of all rows.
        benign: the scores of rows with an answer, with traces.
        found: how the stages were put together.
        report: what the judge costs and gains.
    """

    guard: Guard
    scored: ScoresTable
    benign: StagedScores
    found: CascadeCalibration
    report: JudgeReport


def load_judge(given: Judge | JudgeAddress | Path | str, guard: Guard) -> Judge:
    """Open a judge and check that it works and fits the guard, before the long reading.

    Raises:
        JudgeError: it can't be used, or gives no verdict on a sample.
        GuardError: it was made for another policy.
    """
    judge = _open(given, guard)
    try:
        guard.with_cascade(None, Cascade(0.0, 1e9, 0.5), judge=judge)
        judge.check()
    except BaseException:
        judge.close()
        raise
    return judge


def _open(given: Judge | JudgeAddress | Path | str, guard: Guard) -> Judge:
    if isinstance(given, JudgeAddress):
        return open_judge(given.file(_policy(guard)))
    return open_judge(find_judge(given)) if isinstance(given, str | Path) else given


def _policy(guard: Guard) -> str:
    """Say in words what a guard's policy forbids, for the question to a judge."""
    entries = [f"- {entry.title}: {entry.description.strip()}" for entry in guard.constitution.harmful]
    return "\n".join(["the answer must hold none of these.", *entries])


@dataclass(frozen=True, slots=True)
class BehindReader:
    """Reads traffic with a guard's probe and a judge, and puts both together.

    Attributes:
        guard: the guard. Its probe is stage 1.
        judge: the judge.
        plan: settings of the calibration.
        stage: settings of the second stage.
        folder: folder for scores and verdicts, without text.
        report: called with a file and the number of its exchanges that are read.
        describe: returns the description of a sample that a calibration keeps.
    """

    guard: Guard
    judge: Judge
    plan: CalibrationPlan
    stage: SecondStagePlan
    folder: Path
    report: Callable[[Path, int], None]
    describe: Callable[[ScoresTable], dict[str, Any]]

    def calibrate(self, files: Sequence[Path], **settings: Any) -> Behind:  # noqa: ANN401 - of `calibrate_cascade`
        """Choose escalation threshold, mixture and final threshold, and report on the judge.

        Args:
            files: the traffic.
            settings: further arguments of `calibrate_cascade`.

        Raises:
            CalibrationError: as `calibrate_cascade` does.
            JudgeError: the judge gives no verdict.
        """
        kept, stage = KeptJudge(self.judge, self.folder), self.stage
        screening = self._screening()
        scored = screening.read(files)
        answered = ~np.isnan(scored.floats("max_answer"))
        escalate = screening.choose(scored.select(answered), stage.escalation)
        read, cost = screening.ask(kept, files, scored, escalate)
        benign = read.select(answered)
        settings |= self._settings(escalate) | self.describe(benign.table)
        loud = None
        if not stage.development:
            settings["weights"] = (stage.weight or 0.0,)
        else:
            tried = screening.read(stage.development)
            asked, _ = screening.ask(kept, stage.development, tried, escalate)
            harmful = tried.labels >= 0.5
            loud = asked.select(harmful)
            settings |= {
                "development_benign": asked.select(~harmful).traces,
                "development_harmful": loud.traces,
                "development_groups": tried.groups,
            }
        found = calibrate_cascade(benign.traces, benign.table.groups, **settings)
        ready = self.guard.with_cascade(None, found, judge=self.judge)
        report = self._compare(kept, files, benign, loud, found, cost)
        return Behind(ready, scored, benign, found, report)

    def _settings(self, escalate: float) -> dict[str, Any]:
        """Return the arguments of `calibrate_cascade` that the plan gives."""
        plan, stage = self.plan, self.stage
        return {
            "budget": plan.budget,
            "confidence": plan.confidence,
            "exclusions": plan.exclusions,
            "escalation": stage.escalation,
            "escalate": escalate,
            "flag_on": self.guard.thresholds.flag_on,
            "stride": stage.stride,
            "drift": stage.drift,
        }

    def _screening(self) -> Screening:
        stage = self.stage
        return Screening(
            self.guard, self.folder, stage.stride, stage.drift or 0.0, self.plan.workers, self.report
        )

    def _compare(
        self,
        kept: KeptJudge,
        files: Sequence[Path],
        benign: StagedScores,
        loud: StagedScores | None,
        found: CascadeCalibration,
        cost: JudgeCost,
    ) -> JudgeReport:
        flag_on = self.guard.thresholds.flag_on
        settings = {
            "budget": self.plan.budget,
            "confidence": self.plan.confidence,
            "exclusions": self.plan.exclusions,
        }
        comparer = Comparer(
            self.judge.file.price, benign.table, None if loud is None else loud.table, settings
        )
        probe = probe_scores(benign.table, flag_on)
        rows = [
            comparer.alone(
                "probe alone",
                probe,
                None if loud is None else probe_scores(loud.table, flag_on),
                JudgeCost(),
                0.0,
            ),
            comparer.arranged(
                BEHIND,
                found.calibration,
                None if loud is None else loud.mixed_by(found.cascade, flag_on),
                cost,
                found.escalated,
            ),
        ]
        pairs = list(judged_maxima(benign)) + ([] if loud is None else list(judged_maxima(loud)))
        over, first, second = "those that the judge was asked about", *_columns(pairs)
        if self.stage.judge_alone:
            row, alone = self._alone(kept, files, comparer, benign, loud)
            rows.append(row)
            over, first, second = "all of the traffic", probe.tolist(), alone.tolist()
        file = self.judge.file
        return JudgeReport(
            file.shown,
            file.kind,
            self.judge.sha256,
            None if file.price is None else file.price.currency,
            Correlation.of(over, first, second),
            tuple(rows),
        )

    def _alone(
        self,
        kept: KeptJudge,
        files: Sequence[Path],
        comparer: Comparer,
        benign: StagedScores,
        loud: StagedScores | None,
    ) -> tuple[Arrangement, NDArray[np.float64]]:
        """Let the judge read all of the traffic by itself, each exchange once, at its end."""
        before = kept.cost
        table = judge_exchanges(kept, files, report=self.report)
        cost = kept.cost - before
        table = table.select(~np.isnan(table.floats("max_answer")))
        if table.ids != benign.table.ids:
            raise JudgeError("traffic: the files changed while they were read; run the command again")
        scores = table.floats("mixed_max")
        caught = None
        if loud is not None:
            known = judge_exchanges(kept, self.stage.development)
            caught = known.select(known.labels >= 0.5).floats("mixed_max")
        return comparer.alone("judge alone", scores, caught, cost, 1.0), scores


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
