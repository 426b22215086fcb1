"""Traffic as evidence for a threshold: read by a guard, checked, and ready to choose the threshold."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lockgate.calibration import (
    BudgetRow,
    Calibration,
    CascadeCalibration,
    budget_table,
    calibrate_cascade,
    calibrate_sparingly,
    choose_drift,
    choose_threshold,
)
from lockgate.cascade import FlagOn
from lockgate.classifiers import ExchangeClassifier
from lockgate.classifiers.text import TextBaseline
from lockgate.durable import scratch_folder
from lockgate.errors import ConfigError
from lockgate.exchanges import PromptPrints
from lockgate.guards import Guard, VoiceRecord
from lockgate.judges import Judge
from lockgate.tables import ScoresTable
from lockgate.traffic._behind import BehindReader, load_judge
from lockgate.traffic._checks import benign_rows, check_development, check_traffic, split_labels
from lockgate.traffic._judge_report import JudgeReport, recall_of
from lockgate.traffic._mixture_report import report_mixture
from lockgate.traffic._overlap import describe_overlap, known_prompts, refuse_known_groups
from lockgate.traffic._plan import CalibrationPlan, SecondStagePlan
from lockgate.traffic._recall import Recall
from lockgate.traffic._staging import StagedScores, score_once, score_stages
from lockgate.traffic._voices import ChosenVoices, ShareRow, choose_voices

Report = Callable[[Path, int], None]
_OWNER = "lockgate calibrate"


def silent(_path: Path, _done: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Benign traffic that a guard has read, to choose the guard's threshold with.

    Attributes:
        guard: guard to calibrate, with its second stage if there is one; None if only tables were given.
        plan: settings of the calibration.
        scored: scores of all rows.
        table: scores of the rows with an answer. Their mixed scores set the threshold.
        unanswered: number of rows without an answer.
        overlap: a sentence that says whether the traffic holds training prompts.
        stages: the way the two stages were put together; None if no second stage was added.
        shares: with two judges, what each share of the text baseline in the second stage catches.
        judged: with a judge of text, its report.
        mixture: with another second stage, the report on it.
        harmful: scores of rows that are labelled harmful, if the plan sets them aside. They set no threshold.
        read_here: whether the guard has read the traffic itself. Then its record gets the precision and the
            kind of device that it computes in. Tables do not say how they were made.
    """

    guard: Guard | None
    plan: CalibrationPlan
    scored: ScoresTable
    table: ScoresTable
    unanswered: int
    overlap: str
    stages: CascadeCalibration | None = None
    read_here: bool = False
    shares: tuple[ShareRow, ...] = ()
    harmful: ScoresTable | None = None
    judged: JudgeReport | None = None
    mixture: JudgeReport | None = None

    @property
    def tolerance(self) -> float:
        """Logit tolerance that the threshold allows for."""
        if self.stages is not None:
            return self.stages.calibration.tolerance
        if self.plan.tolerance is not None or self.guard is None:
            return self.plan.tolerance or 0.0
        return self.guard.stages.tolerance

    def budgets(self) -> list[BudgetRow]:
        """List the usual budgets, each with its threshold on these scores."""
        listed = self.plan.excluded
        counted = self.table.select([identity not in listed for identity in self.table.ids])
        return budget_table(
            counted.floats("mixed_max"),
            groups=counted.groups,
            confidence=self.plan.confidence,
            unjudged=_holds_unjudged(counted),
        )

    def choose(self) -> Calibration:
        """Choose the threshold for the plan's budget.

        Raises:
            CalibrationError: the sample is too small for the budget, or scores are not finite.
        """
        if self.stages is not None:
            return self.stages.calibration
        table = self.table
        return choose_threshold(
            table.floats("mixed_max"),
            table.groups,
            self.plan.budget,
            self.tolerance,
            exclusions=self.plan.exclusions,
            confidence=self.plan.confidence,
            unjudged=_holds_unjudged(table),
            **_description(table),
        )

    def recall(self, cut: float) -> Recall | None:
        """Count the harmful rows above a cut, one for each distinct prompt; None if none were set aside."""
        if self.harmful is None:
            return None
        return recall_of(self.harmful, self.harmful.floats("mixed_max"), cut)

    def apply(self, calibration: Calibration) -> Guard:
        """Return the guard with this threshold and the claim that the traffic supports.

        Raises:
            ConfigError: the evidence was gathered without a guard.
        """
        if self.guard is None:
            raise ConfigError("no guard was given to calibrate; gather the evidence with one")
        claim = describe_traffic(calibration, self.overlap)
        if self.stages is not None:
            claim.append(f"stage 2 is asked about {self.stages.escalated:.2%} of this traffic")
        calibrated = self.guard.with_calibration(calibration, claim=claim)
        return calibrated.with_precision() if self.read_here else calibrated


@contextmanager
def gather_evidence(
    guard: Guard | None,
    traffic: Path | Sequence[Path] | ScoresTable,
    plan: CalibrationPlan | None = None,
    *,
    report: Report = silent,
) -> Iterator[Evidence]:
    """Have a guard read traffic that counts as benign, to choose the guard's threshold with.

    Inputs are checked before the long reading. Scores stay in `plan.scratch` until the block ends without an
    error, so save the guard inside the block.

    Args:
        guard: guard to calibrate. It may be None for a table of scores.
        traffic: files of exchanges, or the scores that the guard gave them.
        plan: budget, exclusions, a second stage and other settings. By default a `CalibrationPlan()`.
        report: called with a file and the number of its exchanges that are read.

    Yields:
        The evidence.

    Raises:
        CalibrationError: a row is labelled harmful, the guard was trained on a prompt, or the sample is too
            small for the budget.
        ConfigError: arguments do not fit together, or the scratch folder holds other files.
        ExchangeError: a file can't be read.
        JudgeError: a judge of text can't be used, or gives no verdict.
    """
    plan = CalibrationPlan() if plan is None else plan
    known = known_prompts(guard, plan.training)
    if isinstance(traffic, ScoresTable):
        if plan.second_stage is not None:
            raise ConfigError("second_stage: a scores table lacks its verdicts; give exchanges")
        yield _of_table(guard, traffic, plan, known, by_text=False)
        return
    if guard is None:
        raise ConfigError("no guard was given to read the exchanges; give one, or a table of scores")
    if plan.labelled:
        raise ConfigError("labelled: exchanges for a guard must all be benign; give a table of scores")
    files = [traffic] if isinstance(traffic, Path) else list(traffic)
    stage = plan.second_stage
    judges = (None, None) if stage is None else _load_judges(stage, guard)
    with ExitStack() as stack:
        judge = None if stage is None or stage.judge is None else load_judge(stage.judge, guard)
        if judge is not None:
            # It connects again if it is asked again.
            stack.callback(judge.close)
        known, overlap = _join_known(known, *judges, judge)
        check_traffic(files, known, plan)
        if stage is not None and stage.development:
            check_development(stage.development, files, known)
        folder = stack.enter_context(_scratch(plan.scratch))
        if stage is None:
            scored = [
                ScoresTable.read(score_once(guard, path, folder, workers=plan.workers, report=report))
                for path in files
            ]
            yield evidence_of(guard, ScoresTable.concat(scored), plan, known)
        elif judge is not None:
            behind = BehindReader(guard, judge, plan, stage, folder, report, _description)
            yield _of_judge(behind, files, known, overlap)
        else:
            reader = _StagesReader(guard, *judges, plan, folder, report)
            yield _of_stages(reader, stage, files, known, overlap)


def describe_traffic(calibration: Calibration, overlap: str) -> list[str]:
    """Describe the traffic behind a threshold, for the model card."""
    shares = ", ".join(f"{name or 'unnamed'} ({n})" for name, n in calibration.sources.items())
    lengths = "not recorded"
    if calibration.length_deciles:
        shortest, median, longest = (calibration.length_deciles[i] for i in (0, 5, 10))
        lengths = f"{shortest:.0f} to {longest:.0f} tokens, half of them over {median:.0f}"
    languages = ", ".join(f"{name} ({n})" for name, n in calibration.languages.items())
    return [
        f"traffic: {calibration.n} distinct prompts of the user's own, taken as benign; by source: {shares}",
        f"lengths: {lengths}",
        f"languages: {languages or 'not recorded'}",
        f"overlap with training: {overlap}",
    ]


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        with scratch_folder(folder, _OWNER) as kept:
            yield kept
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def evidence_of(
    guard: Guard, scored: ScoresTable, plan: CalibrationPlan, known: PromptPrints | None
) -> Evidence:
    """Return the evidence of traffic that `guard` has scored, after its text was checked."""
    return _of_table(guard, scored, plan, known, by_text=True)


def _of_table(
    guard: Guard | None,
    scored: ScoresTable,
    plan: CalibrationPlan,
    known: PromptPrints | None,
    *,
    by_text: bool,
) -> Evidence:
    counted, harmful = split_labels(scored) if plan.labelled else (scored, None)
    table, unanswered = benign_rows(counted)
    if known is not None:
        refuse_known_groups(table, known, plan.excluded)
    overlap = describe_overlap(known, guard is not None, by_text=by_text)
    return Evidence(guard, plan, scored, table, unanswered, overlap, read_here=by_text, harmful=harmful)


@dataclass(frozen=True, slots=True)
class _StagesReader:
    """A guard and the judges of its second stage, with the settings for reading files."""

    guard: Guard
    classifier: ExchangeClassifier | None
    text: TextBaseline | None
    plan: CalibrationPlan
    folder: Path
    report: Report

    def read(self, files: Sequence[Path], stride: int) -> StagedScores:
        return score_stages(
            self.guard,
            self.classifier,
            files,
            self.folder,
            text=self.text,
            stride=stride,
            workers=self.plan.workers,
            report=self.report,
        )

    def combine(self, voices: Sequence[VoiceRecord], found: CascadeCalibration) -> Guard:
        """Return the guard with its second stage. A judge without a voice is left out if others have one."""
        kept = {voice.kind for voice in voices} or {"classifier", "text"}
        return self.guard.with_cascade(
            self.classifier if "classifier" in kept else None,
            found,
            text=self.text if "text" in kept else None,
            voices=voices or None,
        )


def _of_stages(
    reader: _StagesReader,
    stage: SecondStagePlan,
    files: Sequence[Path],
    known: PromptPrints | None,
    overlap: str,
) -> Evidence:
    """Read all files with both stages, and choose how to put the stages together.

    Raises:
        CalibrationError: as `calibrate_cascade` does.
    """
    guard, plan = reader.guard, reader.plan
    read = reader.read(files, stage.stride)
    tried = reader.read(stage.development, stage.stride) if stage.development else None
    benign = read.select(~np.isnan(read.table.floats("max_answer")))
    settings: dict[str, Any] = {
        "budget": plan.budget,
        "escalation": stage.escalation,
        "flag_on": guard.thresholds.flag_on,
        "stride": stage.stride,
        "drift": _drift(stage, benign, guard.thresholds.flag_on),
        "training": known,
        "exclusions": plan.exclusions,
        "confidence": plan.confidence,
        **_description(benign.table),
    }
    chosen, loud = ChosenVoices((), ()), None
    if tried is None:
        weights = (stage.weight or 0.0,)
        found = calibrate_cascade(benign.traces, benign.table.groups, weights=weights, **settings)
    else:
        settings["development_groups"] = tried.table.groups
        harmful = tried.table.labels >= 0.5
        quiet, loud = tried.select(~harmful), tried.select(harmful)
        if benign.voices:
            chosen = choose_voices(benign, quiet, loud, settings)
            benign, quiet, loud = (part.mixed(chosen.voices) for part in (benign, quiet, loud))
        found = calibrate_sparingly(
            benign.traces,
            benign.table.groups,
            lost=stage.lost,
            development_benign=quiet.traces,
            development_harmful=loud.traces,
            **settings,
        )
    ready = reader.combine(chosen.voices, found)
    if known is not None:
        ready = ready.with_training_prompts(known)
    mixed = benign.mixed_by(found.cascade, guard.thresholds.flag_on)
    table = benign.table.with_column("mixed_max", mixed)
    unanswered = len(read.table) - len(table)
    limits = {name: settings[name] for name in ("budget", "confidence", "exclusions")}
    report = report_mixture(ready.record.judges, benign, loud, found, limits)
    return Evidence(
        ready, plan, read.table, table, unanswered, overlap, found, True, chosen.shares, mixture=report
    )


def _of_judge(
    reader: BehindReader, files: Sequence[Path], known: PromptPrints | None, overlap: str
) -> Evidence:
    """Read the files with the probe, ask the judge where it is suspicious, and put both together."""
    made = reader.calibrate(files, training=known)
    ready = made.guard if known is None else made.guard.with_training_prompts(known)
    mixed = made.benign.mixed_by(made.found.cascade, ready.thresholds.flag_on)
    table = made.benign.table.with_column("mixed_max", mixed)
    unanswered = len(made.scored) - len(table)
    return Evidence(
        ready, reader.plan, made.scored, table, unanswered, overlap, made.found, True, judged=made.report
    )


def _drift(stage: SecondStagePlan, benign: StagedScores, flag_on: FlagOn) -> float:
    """Return the plan's drift, or choose one. The probe alone decides it, so all mixtures share it."""
    if stage.drift is not None:
        return stage.drift
    return choose_drift(benign.traces, escalation=stage.escalation, flag_on=flag_on, stride=stage.stride)


def _load_judges(
    stage: SecondStagePlan, guard: Guard
) -> tuple[ExchangeClassifier | None, TextBaseline | None]:
    classifier, text = stage.classifier, stage.text
    if isinstance(classifier, Path):
        classifier = ExchangeClassifier.load(classifier, guard.backbone)
    if isinstance(text, Path):
        text = TextBaseline.load(text)
    return classifier, text


def _join_known(
    known: PromptPrints | None,
    classifier: ExchangeClassifier | None,
    text: TextBaseline | None,
    judge: Judge | None,
) -> tuple[PromptPrints | None, str]:
    """Return the training prompts of all stages, and the sentence on them for the model card."""
    judges = {"classifier": classifier, "text baseline": text, "judge": judge}
    found = {name: part.training_prompts for name, part in judges.items() if part is not None}
    silent = [name for name, prints in found.items() if prints is None]
    if known is None and any(prints is not None for prints in found.values()):
        silent.append("first stage")
    for prints in found.values():
        known = prints if known is None else known if prints is None else known | prints
    notes = (f"the {name} does not say what it was trained on" for name in silent)
    return known, "; ".join([describe_overlap(known, True, by_text=True), *notes])


def _description(table: ScoresTable) -> dict[str, Any]:
    """Return the description of a sample that a calibration keeps."""
    return {
        "ids": table.ids,
        "lengths": table.lengths if table.has_lengths else None,
        "sources": [str(source) for source in table.texts("source")],
        "languages": [name or "unknown" for name in table.texts("language")]
        if table.has("language")
        else None,
    }


def _holds_unjudged(table: ScoresTable) -> bool:
    """Whether rows may have no mixed score because the first stage let them pass."""
    return bool((table.floats("stage") == 2).any() or np.isneginf(table.floats("mixed_max")).any())
