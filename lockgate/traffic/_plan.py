"""The settings of a calibration."""

from dataclasses import dataclass
from pathlib import Path

from lockgate.calibration import Exclusion
from lockgate.classifiers import ExchangeClassifier
from lockgate.classifiers.text import TextBaseline
from lockgate.errors import ConfigError

_RANGES = {
    "weight": (0.0, 1.0),
    "escalation": (0.0001, 0.9999),
    "lost": (0.0, 1.0),
    "stride": (1, 1024),
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

    Raises:
        ConfigError: there is no judge, both or neither of `development` and `weight` are given, there are two
            judges and no `development`, or a value is out of range.
    """

    classifier: ExchangeClassifier | Path | None
    development: tuple[Path, ...] = ()
    escalation: float = 0.025
    lost: float = 0.02
    weight: float | None = None
    stride: int = 8
    text: TextBaseline | Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if self.classifier is None and self.text is None:
            raise ConfigError("a second stage needs a judge; give a classifier, a text baseline or both")
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

    def __post_init__(self) -> None:
        """Refuse values that do not go together."""
        if self.tolerance is not None and self.second_stage is not None:
            raise ConfigError("tolerance: leave it out; two stages take theirs from the mixed scores")

    @property
    def excluded(self) -> set[str]:
        """Ids of the rows to leave out."""
        return {row.id for row in self.exclusions}
