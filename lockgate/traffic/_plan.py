"""The settings of a calibration."""

import math
from dataclasses import dataclass
from pathlib import Path

from lockgate.calibration import Exclusion
from lockgate.classifiers import ExchangeClassifier
from lockgate.classifiers.text import TextBaseline
from lockgate.errors import ConfigError
from lockgate.exchanges import PromptPrints
from lockgate.judges import Judge, JudgeAddress

STAGES = (1, 2)
_RANGES = {
    "weight": (0.0, 1.0),
    "escalation": (0.0001, 0.9999),
    "lost": (0.0, 1.0),
    "stride": (1, 1024),
    "drift": (0.0, 1000.0),
}


@dataclass(frozen=True, slots=True)
class SecondStagePlan:
    """A second stage to add to a guard of one stage.

    Attributes:
        classifier: the exchange classifier, or its folder. It reads all of the traffic.
        development: files of exchanges of both labels. They choose how to mix the stages and, with two
            judges, the judges' shares. So their prompts are not in the traffic.
        escalation: largest share of the traffic that the classifier is asked about.
        lost: with `development`, the largest share of caught harmful exchanges that may be lost, so that the
            classifier is asked less often.
        weight: the probe's share of the mixed score. It takes the place of `development`.
        stride: answer tokens from one verdict to the next.
        text: the text baseline, or its folder. It judges beside the classifier, or alone.
        drift: logits by which the probe's readings are lowered each time the answer doubles, so that long
            answers are not escalated more often; see `Cascade`. None (`--drift auto`) chooses it on the
            traffic.
        judge: a judge of text, its file (YAML), its folder or its address. It is asked alone, without
            classifier and text baseline, and reads only what the probe escalates. So `lost` is not used, and
            `drift` is given.
        judge_alone: also let the judge read all of the traffic by itself, for its report.

    Raises:
        ConfigError: there is no judge, a judge of text has company, both or neither of `development` and
            `weight` are given, there are two judges and no `development`, or a value is out of range.
    """

    classifier: ExchangeClassifier | Path | None
    development: tuple[Path, ...] = ()
    escalation: float = 0.025
    lost: float = 0.02
    weight: float | None = None
    stride: int = 8
    text: TextBaseline | Path | None = None
    drift: float | None = 0.0
    judge: Judge | JudgeAddress | Path | str | None = None
    judge_alone: bool = False

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if self.classifier is None and self.text is None and self.judge is None:
            raise ConfigError(
                "a second stage needs a judge; give a classifier, a text baseline or both, or a judge of text"
            )
        if self.judge is None and self.judge_alone:
            raise ConfigError("judge_alone: there is no judge of text to compare with; give it with judge")
        if self.judge is not None and (self.classifier is not None or self.text is not None):
            raise ConfigError("judge: it is asked alone; leave the classifier and the text baseline out")
        if self.judge is not None and self.drift is None:
            raise ConfigError("drift: it is chosen on verdicts of all blocks; with a judge give a number")
        if self.classifier is not None and self.text is not None and not self.development:
            raise ConfigError(
                "weight: it does not say how a classifier and a text baseline are mixed; give development "
                "(labelled exchanges that choose their shares)"
            )
        if bool(self.development) == (self.weight is not None):
            raise ConfigError(
                "give either development (labelled exchanges that choose how to mix) or a weight"
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value:g}; expected a number from {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """The settings for a guard's threshold on traffic that counts as benign.

    Attributes:
        budget: largest share of benign exchanges that may be flagged.
        confidence: confidence of the budget's bound.
        exclusions: rows to leave out, each with a reason.
        training: files of exchanges that the guard was trained on, if its bundle does not hold their
            fingerprints.
        tolerance: tolerance of logits. By default the guard's own. For two stages it comes from the mixed
            scores.
        second_stage: a second stage to add to a guard of one stage.
        workers: number of processes that read, with one thread each.
        scratch: folder for scores, without text. An interrupted calibration continues there. A finished one
            removes it. By default nothing is kept.
        labelled: set harmful rows of a scores table aside, and measure on them what the threshold finds. By
            default they are refused.

    Raises:
        ConfigError: a tolerance is given for two stages.
    """

    budget: float = 0.0005
    confidence: float = 0.95
    exclusions: tuple[Exclusion, ...] = ()
    training: tuple[Path, ...] = ()
    tolerance: float | None = None
    second_stage: SecondStagePlan | None = None
    workers: int = 1
    scratch: Path | None = None
    labelled: bool = False

    def __post_init__(self) -> None:
        """Refuse values that do not go together."""
        if self.tolerance is not None and self.second_stage is not None:
            raise ConfigError("tolerance: leave it out; two stages take theirs from the mixed scores")

    @property
    def excluded(self) -> set[str]:
        """Ids of the rows to leave out."""
        return {row.id for row in self.exclusions}


@dataclass(frozen=True, slots=True)
class MiningPlan:
    """The settings of mining: which harmless exchanges of a pool are taken, by the scores of a guard.

    Attributes:
        stage: 1 scores with the probe alone; 2 with the whole cascade.
        top: share of the harmless exchanges to take.
        count: number of exchanges to take. It takes the place of `top`.
        per_source: most exchanges to take from one source.
        held_out: files of exchanges, or of fingerprints, with the prompts of calibration, development and
            test. None of them may be in the pool.
        drop_overlap: leave out exchanges with held-out prompts, and count them.
        unlabelled_as: 0 takes exchanges without a label as harmless. None leaves them out.
        round: number of this round of mining.
        skip_invalid: leave bad records out.
        workers: number of processes that score, with one thread each.

    Raises:
        ConfigError: a value is out of range.
    """

    stage: int = 1
    top: float = 0.05
    count: int | None = None
    per_source: int | None = None
    held_out: tuple[Path, ...] = ()
    drop_overlap: bool = False
    unlabelled_as: int | None = None
    round: int = 1
    skip_invalid: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if self.stage not in STAGES:
            raise ConfigError(f"stage is {self.stage}; expected 1 (the probe alone) or 2 (the whole cascade)")
        if not 0 < self.top <= 1:
            raise ConfigError(f"top is {self.top:g}; expected a share above 0 and at most 1")
        for name in ("count", "per_source", "round", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        if self.unlabelled_as not in (None, 0):
            raise ConfigError(
                f"unlabelled_as is {self.unlabelled_as}; expected 0: only harmless exchanges are mined"
            )
        if self.drop_overlap and not self.held_out:
            raise ConfigError("drop_overlap: give the held-out prompts too (held_out)")


@dataclass(frozen=True, slots=True)
class SelectionPlan:
    """The settings for choosing exchanges that a person labels.

    Attributes:
        n: number of exchanges to choose. There are fewer if the files hold fewer.
        known: fingerprints of the prompts that people have labelled already.
        known_ids: ids of exchanges that people have labelled already, if their text is in the files alone.
        held_out: files of exchanges, or of fingerprints, with the prompts of calibration, development and
            test. None of them is chosen.
        seed: decides between equally uncertain exchanges, and the order of the chosen ones.
        skip_invalid: leave bad records out.
        workers: number of processes that score, with one thread each.

    Raises:
        ConfigError: a value is out of range.
    """

    n: int = 50
    known: PromptPrints | None = None
    known_ids: frozenset[str] = frozenset()
    held_out: tuple[Path, ...] = ()
    seed: int = 0
    skip_invalid: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        for name in ("n", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True, slots=True)
class ScreenPlan:
    """The settings for choosing training exchanges by stage 1, so that stage 2 learns on what it will judge.

    Attributes:
        keep: share of the harmless exchanges below the threshold that are kept, drawn by hash.
        above: threshold of the probe's smoothed logit, or of its corrected reading if the guard's cascade has
            a drift. None takes the guard's escalation threshold.
        seed: seed of the draw.
        skip_invalid: leave bad records out.
        workers: number of processes that score, with one thread each.

    Raises:
        ConfigError: a value is out of range.
    """

    keep: float = 0.1
    above: float | None = None
    seed: int = 0
    skip_invalid: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if not 0 <= self.keep <= 1:
            raise ConfigError(f"screen_keep is {self.keep:g}; expected a share from 0 to 1")
        if self.above is not None and not math.isfinite(self.above):
            raise ConfigError("screen_above: expected a number, a smoothed logit of the probe")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected at least 1")
