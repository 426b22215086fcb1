"""What a calibration is told."""

from dataclasses import dataclass
from pathlib import Path

from lockgate.calibration import Exclusion
from lockgate.classifiers import ExchangeClassifier
from lockgate.errors import ConfigError

_RANGES = {
    "weight": (0.0, 1.0),
    "escalation": (0.0001, 0.9999),
    "lost": (0.0, 1.0),
    "stride": (1, 1024),
}


@dataclass(frozen=True, slots=True)
class SecondStagePlan:
    """A second stage for a guard of one.

    Attributes:
        classifier: it reads all of the traffic; the folder of one is loaded with the guard's backbone.
        development: files of exchanges of both labels, on prompts of their own; they choose how to mix.
        escalation: largest share of the traffic that the classifier is asked about.
        lost: with `development`, ask about as little as loses at most this share of the flags.
        weight: the probe's share of the mixed score, instead of `development`.
        stride: answer tokens from one verdict to the next.

    Raises:
        ConfigError: both or neither of `development` and `weight`, or a value out of its range.
    """

    classifier: ExchangeClassifier | Path
    development: tuple[Path, ...] = ()
    escalation: float = 0.025
    lost: float = 0.02
    weight: float | None = None
    stride: int = 8

    def __post_init__(self) -> None:
        """Refuses what can't work."""
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
    """How to set a guard's threshold on traffic that counts as benign.

    Attributes:
        budget: largest share of benign exchanges to flag; `confidence` is that of its bound.
        exclusions: rows left out, each with a reason.
        training: files of exchanges that the guard was trained on, where it doesn't know them by itself.
        tolerance: of logits; by default the guard's own. Two stages take theirs from the mixed scores.
        second_stage: what to add to a guard of one stage.
        workers: processes that read, one thread each.
        scratch: folder for what is read, without text. An interrupted calibration goes on there, and what
            is finished is removed. By default nothing is kept.

    Raises:
        ConfigError: a tolerance for two stages.
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
        """Refuses what does not go together."""
        if self.tolerance is not None and self.second_stage is not None:
            raise ConfigError("tolerance: two stages take theirs from the spread of the mixed scores")

    @property
    def excluded(self) -> set[str]:
        """Ids of the rows that are left out."""
        return {row.id for row in self.exclusions}
