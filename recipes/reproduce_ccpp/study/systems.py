"""The four systems of the paper, each as one matrix of scores by block, and their costs.

All systems have the same form: each block of each exchange has a score, which flags strictly above a cut. So thresholds,
delays and intervals are written once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import ESCALATIONS, WEIGHTS
from lockgate.cascade import Cascade
from lockgate.errors import CalibrationError, ExchangeError
from lockgate.evaluation import Floats, Mask, log_auroc
from recipes.reproduce_ccpp.study.blocks import Blocks, judge_blocks
from recipes.reproduce_ccpp.study.data import ScoredPart, StudyData
from recipes.reproduce_ccpp.study.spec import Escalation

__all__ = ["Cost", "SystemScores", "Systems", "cut_at", "exceedance"]

_Reader = Callable[[str], Blocks]


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """The cost of a system for each exchange [N]: FLOPs by formula and measured CPU seconds.

    In the `engine`, the backbone's activations are free. In `front`, the guard's own reading of the backbone counts.
    """

    engine: Floats
    front: Floats
    cpu_engine: Floats
    cpu_front: Floats

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.engine + other.engine,
            self.front + other.front,
            self.cpu_engine + other.cpu_engine,
            self.cpu_front + other.cpu_front,
        )


@dataclass(frozen=True, slots=True, eq=False)
class SystemScores:
    """One system on one part: scores [N, B], minus infinity for blocks that are not judged.

    `began` are blocks that released tokens one by one until they turned suspicious [N, B]. It is None if every block waits
    for its verdict. `escalated` [N] is None for a system of one stage.
    """

    scores: Floats
    ends: NDArray[np.int64]
    cost: Cost
    began: Mask | None = None
    escalated: Mask | None = None

    @property
    def values(self) -> Floats:
        """Return the largest score of each exchange [N]."""
        return np.asarray(self.scores.max(axis=1, initial=-np.inf))


def cut_at(values: Floats, share: float) -> float:
    """Return the cut that at most `share` of the benign `values` [N] exceed strictly. It may be minus infinity.

    Exchanges that never reached a verdict count as minus infinity. With few escalations the cut may be minus infinity too;
    then everything judged is flagged.

    Raises:
        CalibrationError: there are no values, or failed readings (+inf), which flag at any cut, exceed the share.
    """
    if len(values) == 0:
        raise CalibrationError("no benign calibration prompt to take a threshold from")
    k = min(math.floor(share * len(values) + 1e-9), len(values) - 1)
    cut = float(np.sort(values)[len(values) - 1 - k])
    if cut == math.inf or math.isnan(cut):
        raise CalibrationError(
            f"more than {k} of {len(values)} benign calibration exchanges have a failed reading; "
            "score them again"
        )
    return cut


def exceedance(reference: Floats, values: Floats) -> Floats:
    """Return minus the number of `reference` scores [M] that are no smaller than each of `values` (any shape).

    The largest exceedance of several classifiers shares one budget by equal ranks. A cut at its (k+1)-th largest calibration
    value flags the union of each classifier's top r, for the largest r that keeps the union within k.
    """
    ordered = np.sort(reference)
    return np.asarray(np.searchsorted(ordered, values, side="left") - len(ordered), dtype=np.float64)


class Systems:
    """The systems that a study's tables allow, set on its calibration part alone.

    They are `last_generation` (input + output), `exchange`, `cascade` (a small classifier screens for a large one),
    `production` (the probe screens, and both are mixed), and `probe`, the first stage alone.

    Attributes:
        names: the systems, in the paper's order.
        gates: settings of the two-stage systems. Their `flag` is left open, see `cut`.
        rows: rows of the calibration part that thresholds come from.
    """

    def __init__(self, data: StudyData) -> None:
        """Choose escalation thresholds and mixing weights. Raises the errors of `cut_at` and `StudyData`."""
        self._data = data
        spec = data.spec
        self.rows = data.calibration_rows()
        self.gates = {"production": self._gate(self._probe_blocks, spec.production)}
        if spec.screen is not None:
            self.gates["cascade"] = self._gate(self._screen_blocks, spec.cascade)
        pair = spec.input is not None and spec.output is not None
        self.names: tuple[str, ...] = (
            *(("last_generation",) if pair else ()),
            "exchange",
            *(("cascade",) if spec.screen is not None else ()),
            "production",
        )
        self._references = [self._pair(spec.calibration, i)[self.rows] for i in range(2)] if pair else []

    def harmful(self, part: str) -> Mask:
        """Return the rows of a part that are labelled harmful [N]."""
        return self._data.reference(part).harmful

    def may_flag(self, cells: Mask) -> Mask:
        """Return cells [N, B], without those of the prompt if only the answer may flag."""
        if self._data.spec.flag_on == "answer":
            cells = cells.copy()
            cells[:, :1] = False
        return cells

    def score(self, name: str, part: str) -> SystemScores:
        """Score one part with one of `names`, or `probe`."""
        reference = self._data.reference(part)
        if name == "last_generation":
            return self._last_generation(part)
        if name in self.gates:
            return self.gated(name, part, self.gates[name])
        blocks = self._probe_blocks(part)
        cells = blocks.verdict if name == "exchange" else blocks.screen
        scores = self._allowed(cells)
        if name == "exchange":
            return SystemScores(scores, blocks.ends, _whole(reference))
        # The probe alone holds nothing back: tokens are released one by one until one of them flags.
        return SystemScores(scores, blocks.ends, self._probe_cost(part), np.ones(scores.shape, dtype=bool))

    def gated(self, name: str, part: str, gate: Cascade) -> SystemScores:
        """Score one part with a two-stage system under another gate."""
        blocks = self.blocks(name, part)
        ruled = judge_blocks(blocks, gate, self._data.spec.flag_on)
        first = self._probe_cost(part) if name == "production" else self._screen_cost(part)
        second = _partial(
            self._data.reference(part), blocks, ruled.judged, self._data.spec.verdict_tokens, part
        )
        return SystemScores(ruled.mixed, blocks.ends, first + second, ruled.began, ruled.escalated)

    def blocks(self, name: str, part: str) -> Blocks:
        """Return the blocks that a two-stage system sees."""
        return self._probe_blocks(part) if name == "production" else self._screen_blocks(part)

    def cut(self, scores: SystemScores, share: float) -> float:
        """Return the cut of a system, from its scores on the calibration part."""
        return cut_at(scores.values[self.rows], share)

    def escalate_at(self, name: str, share: float) -> float:
        """Return the stage-1 threshold above which at most `share` of the calibration prompts are suspicious."""
        screen = self._allowed(self.blocks(name, self._data.spec.calibration).screen, everything=True)
        if share >= 1:
            return -math.inf
        return cut_at(screen.max(axis=1, initial=-np.inf)[self.rows], share)

    def _gate(self, read: _Reader, setting: Escalation) -> Cascade:
        blocks = read(self._data.spec.calibration).select(self.rows)
        gate = Cascade(
            self._suspicious_at(blocks, setting.escalation),
            math.inf,
            setting.weight if setting.weight is not None else 0.5,
            *_moments(blocks.screen),
            *_moments(blocks.verdict),
            calm_blocks=self._data.spec.calm_blocks,
        )
        if setting.weight is None:
            gate = self._weighted(read, gate, blocks)
        if setting.lost is None:
            return gate
        return self._sparing(read, gate, blocks, setting.escalation, setting.lost)

    def _suspicious_at(self, benign: Blocks, share: float) -> float:
        suspicion = self._allowed(benign.screen, everything=True).max(axis=1, initial=-np.inf)
        return cut_at(suspicion, share)

    def _sparing(self, read: _Reader, gate: Cascade, benign: Blocks, budget: float, lost: float) -> Cascade:
        """The gate that escalates least among those within the budget and within the allowed loss."""
        spec, harmful = self._data.spec, self._harmful_development(read)
        whole = replace(gate, escalate=-math.inf)
        ordinary, found = (judge_blocks(part, whole, spec.flag_on).mixed for part in (benign, harmful))
        flagged = found.max(axis=1) > cut_at(ordinary.max(axis=1), spec.operating_point)
        for share in ESCALATIONS:
            if share >= budget or not flagged.any():
                break
            trial = replace(gate, escalate=self._suspicious_at(benign, share))
            asked = judge_blocks(harmful, trial, spec.flag_on).escalated
            if float((~asked[flagged]).mean()) <= lost:
                return trial
        return gate

    def _harmful_development(self, read: _Reader) -> Blocks:
        spec = self._data.spec
        if spec.development is None:
            raise CalibrationError(
                "a mixing weight or escalation is to be chosen but no development part is named"
            )
        harmful = read(spec.development).select(self._data.reference(spec.development).harmful)
        if not len(harmful.ends):
            raise CalibrationError(f"part {spec.development} holds no harmful row to choose by")
        return harmful

    def _weighted(self, read: _Reader, gate: Cascade, benign: Blocks) -> Cascade:
        """The weight that best ranks the development part's harmful exchanges above calibration traffic."""
        spec, harmful = self._data.spec, self._harmful_development(read)
        labels = np.arange(len(benign.ends) + len(harmful.ends)) >= len(benign.ends)

        def merit(weight: float) -> tuple[float, float]:
            trial = replace(gate, weight=weight)
            parts = [judge_blocks(b, trial, spec.flag_on).mixed.max(axis=1) for b in (benign, harmful)]
            return log_auroc(np.concatenate(parts), labels), -abs(weight - 0.5)

        return replace(gate, weight=max(WEIGHTS, key=merit))

    def _allowed(self, cells: Floats, *, everything: bool = False) -> Floats:
        """Cells [N, B] that may flag, minus infinity elsewhere."""
        read = ~np.isnan(cells)
        return np.where(read if everything else self.may_flag(read), cells, -np.inf)

    def _probe_blocks(self, part: str) -> Blocks:
        return _blocks(self._data.reference(part), part)

    def _screen_blocks(self, part: str) -> Blocks:
        model = self._data.spec.screen or ""
        small = _blocks(self._data.part(model, part), part)
        return self._probe_blocks(part).screened_by(small, f"{model}/{part}")

    def _pair(self, part: str, number: int) -> Floats:
        model = (self._data.spec.input, self._data.spec.output)[number] or ""
        return self._data.part(model, part).values

    def _last_generation(self, part: str) -> SystemScores:
        spec = self._data.spec
        first, second = (self._data.part(model or "", part) for model in (spec.input, spec.output))
        answer = self._probe_blocks(part).screened_by(_blocks(second, part), f"{spec.output}/{part}")
        cells = exceedance(self._references[1], self._allowed(answer.screen, everything=True))
        # Blocks that are not judged must not flag, and zero would be the highest possible exceedance.
        cells = np.where(np.isnan(answer.screen), -np.inf, cells)
        # The input classifier has read the prompt before the answer begins.
        cells[:, 0] = np.maximum(cells[:, 0], exceedance(self._references[0], first.values))
        return SystemScores(cells, answer.ends, _whole(first) + _whole(second))

    def _probe_cost(self, part: str) -> Cost:
        table = self._data.reference(part).table
        own = self._data.spec.probe_flops * table.floats("tokens_stage1")
        read, seconds = table.floats("flops_stage1"), table.floats("cpu_s_stage1")
        return Cost(own, own + read, np.zeros(len(own)), seconds)

    def _screen_cost(self, part: str) -> Cost:
        return _whole(self._data.part(self._data.spec.screen or "", part))


def _blocks(part: ScoredPart, name: str) -> Blocks:
    if part.blocks is None:
        raise ExchangeError(f"part {name}: expected a block trace beside the scores table")
    return part.blocks


def _moments(cells: Floats) -> tuple[float, float]:
    values = cells[np.isfinite(cells)]
    spread = float(values.std()) if len(values) else 0.0
    if spread == 0:
        raise CalibrationError(
            "the calibration part's logits do not vary; expected scores of a trained model"
        )
    return float(values.mean()), spread


def _whole(part: ScoredPart) -> Cost:
    """Cost of a classifier that reads everything and judges every block, as in its bulk run."""
    flops, seconds = part.table.floats("flops_stage2"), part.table.floats("cpu_s_stage2")
    if not flops.any():
        raise ExchangeError(
            "a classifier's scores table has no flops_stage2; expected the cost of its reading there"
        )
    return Cost(flops, flops, seconds, seconds)


def _partial(reference: ScoredPart, blocks: Blocks, judged: Mask, verdict_tokens: int, part: str) -> Cost:
    """Cost of stage 2 on escalation.

    It reads the conversation up to the last judged block, each token once, and its suffix for every verdict. A token costs
    as much as in its bulk run on the same exchange.
    """
    table = reference.table
    count = judged.sum(axis=1)
    last = blocks.ends.shape[1] - 1 - np.argmax(judged[:, ::-1], axis=1)
    prompt = table.lengths - blocks.answer_tokens
    tokens = prompt + blocks.ends[np.arange(len(last)), last] + count * verdict_tokens
    whole = table.floats("tokens_stage2")
    if ((count > 0) & (whole <= 0)).any():
        raise ExchangeError(f"part {part}: an escalated exchange has tokens_stage2 = 0; score with stage 2")
    share = np.where(count > 0, tokens / np.maximum(whole, 1), 0.0)
    flops, seconds = share * table.floats("flops_stage2"), share * table.floats("cpu_s_stage2")
    return Cost(flops, flops, seconds, seconds)
