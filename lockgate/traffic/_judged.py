"""Traffic before a judge: alone on whole exchanges, and behind a guard's probe where that is suspicious."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import Trace, escalation_threshold
from lockgate.cascade import Cascade
from lockgate.errors import CalibrationError
from lockgate.exchanges import Exchange, PromptPrints, prompt_group, read_exchanges
from lockgate.guards import ExchangeScore, Guard
from lockgate.judges import Judge, JudgeCost, KeptJudge
from lockgate.tables import ScoresTable
from lockgate.traffic._checks import check_development, check_traffic
from lockgate.traffic._overlap import known_prompts
from lockgate.traffic._plan import CalibrationPlan
from lockgate.traffic._staging import StagedScores, score_once

Report = Callable[[Path, int], None]
_CHUNK = 64


def check_judged(
    files: Sequence[Path],
    development: Sequence[Path],
    plan: CalibrationPlan,
    trained: PromptPrints | None,
) -> None:
    """Refuse traffic that a judge can't be calibrated on by itself, before it reads any.

    Args:
        files: the traffic.
        development: labelled exchanges that show what the threshold finds, or none.
        plan: settings of the calibration.
        trained: fingerprints of the prompts that the judge was trained on, if they are known.

    Raises:
        CalibrationError: a row is labelled harmful, prompts are shared with training or development, or the
            sample is too small for the budget.
        ExchangeError: a file can't be read.
    """
    known = known_prompts(None, plan.training)
    known = trained if known is None else known if trained is None else known | trained
    check_traffic(files, known, plan)
    if development:
        check_development(development, files, known)


def judge_exchanges(
    judge: Judge, files: Sequence[Path], *, report: Report = lambda _path, _done: None
) -> ScoresTable:
    """Have a judge read whole exchanges, and return their logits as a scores table.

    `mixed_max` is the logit. A prompt without an answer is not judged and has no `max_answer`.

    Args:
        judge: the judge. A `KeptJudge` continues an interrupted run.
        files: files of exchanges.
        report: called with a file and the number of its exchanges that are judged.

    Raises:
        ExchangeError: a file can't be read.
        JudgeError: the judge gives no verdict on an exchange.
    """
    rows: list[dict[str, Any]] = []
    for path in files:
        exchanges, done = iter(read_exchanges(path)), 0
        while chunk := list(itertools.islice(exchanges, _CHUNK)):
            rows += _judged_rows(judge, chunk, len(rows))
            done += len(chunk)
            report(path, done)
    return ScoresTable.from_rows(rows)


def _judged_rows(judge: Judge, chunk: Sequence[Exchange], first: int) -> list[dict[str, Any]]:
    readings = iter(judge.judge([row.messages for row in chunk if not row.is_prompt_only]))
    rows = []
    for number, row in enumerate(chunk, first):
        reading = None if row.is_prompt_only else next(readings)
        logit = -math.inf if reading is None else reading.logit
        language = row.meta.get("language")
        rows.append(
            {
                "row": number,
                "id": row.id,
                "source": row.source,
                "label": row.label,
                "category": row.category,
                "probe_max": logit,
                "max_answer": None if reading is None else logit,
                "mixed_max": logit,
                "flagged": False,
                "stage": 1,
                "tokens_stage1": 0 if reading is None else reading.prompt_tokens,
                "tokens_stage2": 0,
                "flops_stage1": 0.0,
                "flops_stage2": 0.0,
                "cpu_s_stage1": 0.0 if reading is None else reading.seconds,
                "cpu_s_stage2": 0.0,
                "prompt_group": prompt_group(row),
                "turns": float(len(row.messages)),
                "language": language if isinstance(language, str) else None,
            }
        )
    return rows


@dataclass(frozen=True, slots=True)
class Screening:
    """Traffic that the probe of a guard has read, before a judge is asked about it.

    Attributes:
        guard: the guard.
        folder: folder of the scores, without text.
        stride: answer tokens of a block.
        drift: see `Cascade`.
        workers: number of processes that read with the probe.
        report: called with a file and the number of its exchanges that the probe has read.
    """

    guard: Guard
    folder: Path
    stride: int
    drift: float
    workers: int
    report: Report

    def read(self, files: Sequence[Path]) -> ScoresTable:
        """Return the probe's scores of files of exchanges."""
        tables = [
            ScoresTable.read(
                score_once(
                    self.guard,
                    path,
                    self.folder,
                    workers=self.workers,
                    screen=self.guard.cascade is not None,
                    report=self.report,
                )
            )
            for path in files
        ]
        return ScoresTable.concat(tables)

    def highest(self, table: ScoresTable) -> NDArray[np.float64]:
        """Return the largest corrected reading of each exchange [N] that its scores allow.

        The answer's largest logit is corrected as in the first block, where least is taken off. A prompt
        counts too: it makes a stream suspicious, whatever may flag.
        """
        rise = Cascade(math.inf, math.inf, 0.5, stride=self.stride, drift=self.drift).rise(1)
        both = np.stack([table.floats("max_prompt"), table.floats("max_answer") - rise])
        return np.asarray(np.where(np.isnan(both), -np.inf, both).max(axis=0))

    def choose(self, benign: ScoresTable, share: float) -> float:
        """Return the escalation threshold: at most a share `share` of the exchanges lies above it.

        Raises:
            CalibrationError: readings failed, or are all missing.
        """
        highest = self.highest(benign)
        if not np.isfinite(highest).any() or (highest == np.inf).any():
            raise CalibrationError("traffic: expected finite probe logits; score those rows again")
        return escalation_threshold(highest, share)

    def ask(
        self, judge: KeptJudge, files: Sequence[Path], table: ScoresTable, escalate: float
    ) -> tuple[StagedScores, JudgeCost]:
        """Have the judge read every block that the probe escalates, as in serving.

        Args:
            judge: the judge.
            files: the files of `table`.
            table: the probe's scores of all rows.
            escalate: the escalation threshold.

        Returns:
            The scores, with traces that hold verdicts where the judge was asked, and the verdicts' cost.

        Raises:
            JudgeError: the judge gives no verdict.
        """
        asks = Cascade(escalate, 1e9, 0.5, stride=self.stride, drift=self.drift)
        asking = self.guard.with_cascade(None, asks, judge=judge)
        answered = ~np.isnan(table.floats("max_answer"))
        suspects = answered & (self.highest(table) > escalate)
        rows = itertools.chain.from_iterable(read_exchanges(path) for path in files)
        chosen = (row for row, suspect in zip(rows, suspects, strict=True) if suspect)
        before = judge.cost
        traces = _short_traces(table)
        for number, score in zip(np.flatnonzero(suspects).tolist(), asking.score_many(chosen), strict=True):
            traces[number] = _trace(score)
        return StagedScores(table, tuple(traces)), judge.cost - before


def _short_traces(table: ScoresTable) -> list[Trace]:
    """Return traces of exchanges that can't be escalated: the largest logits of prompt and answer."""
    columns = zip(table.floats("max_prompt"), table.floats("max_answer"), strict=True)
    return [Trace(np.array(pair), np.full(2, np.nan)) for pair in columns]


def _trace(score: ExchangeScore) -> Trace:
    probe, verdicts = ([row[column] for row in score.blocks] for column in (1, 2))
    return Trace(np.array(probe), np.array(verdicts))


def judged_maxima(scores: StagedScores) -> Iterator[tuple[float, float]]:
    """Yield the largest probe logit and verdict of each exchange that the judge was asked about."""
    for probe, verdicts in scores.traces:
        asked = np.asarray(verdicts)[~np.isnan(verdicts)]
        if len(asked):
            yield float(np.nanmax(probe)), float(asked.max())
