"""A threshold of a score as a small JSON file, which any program can read."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lockgate._version import __version__
from lockgate.calibration import Calibration
from lockgate.durable import file_sha256, open_atomic
from lockgate.errors import CalibrationError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ScoreThreshold:
    """The threshold of a score with its claim. All numbers are on the scale of the score's file.

    Attributes:
        column: name of the score.
        harmful: whether `higher` or `lower` scores are the harmful ones.
        threshold, tolerance: what flags, see `flags`.
        cut: the score of the sample that the threshold was set at.
        budget, confidence, n, k, flagged, bound: as in `Calibration`.
        excluded: number of rows that were left out on purpose.
        length_deciles: lengths of the sample at quantiles 0, 0.1, ... 1; empty if they are unknown.
        recall: flagged share of rows that are labelled harmful; None without labels. It has the keys
            `n`, `flagged`, `share` and `interval` (two-sided, 95 %).
        inputs: SHA-256 of each file, by its name.
        lockgate_version: version that chose the threshold.
    """

    column: str
    harmful: Literal["higher", "lower"]
    threshold: float
    tolerance: float
    cut: float
    budget: float
    confidence: float
    n: int
    k: int
    flagged: int
    bound: float
    excluded: int
    length_deciles: tuple[float, ...]
    recall: Mapping[str, Any] | None
    inputs: Mapping[str, str]
    lockgate_version: str = __version__

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        files: Sequence[Path],
        *,
        column: str = "mixed_max",
        lower_is_harmful: bool = False,
        recall: Mapping[str, Any] | None = None,
    ) -> "ScoreThreshold":
        """Make the file's content from a calibration.

        Args:
            calibration: the threshold. If low scores are harmful, it was chosen on negated scores.
            files: the files of scores.
            column: name of the score in them.
            lower_is_harmful: whether low scores are the harmful ones.
            recall: see the attribute.

        Raises:
            ExchangeError: a file can't be read.
        """
        sign = -1.0 if lower_is_harmful else 1.0
        return cls(
            column=column,
            harmful="lower" if lower_is_harmful else "higher",
            threshold=sign * calibration.threshold,
            tolerance=calibration.tolerance,
            cut=sign * calibration.cut,
            budget=calibration.budget,
            confidence=calibration.confidence,
            n=calibration.n,
            k=calibration.k,
            flagged=calibration.flagged,
            bound=calibration.bound,
            excluded=len(calibration.excluded),
            length_deciles=calibration.length_deciles,
            recall=recall,
            inputs={str(path): file_sha256(path) for path in files},
        )

    def flags(self, score: float) -> bool:
        """Return whether a score flags. NaN does: what could not be scored must not pass."""
        if self.harmful == "lower":
            return not score >= self.threshold + self.tolerance
        return not score <= self.threshold - self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        rule = "score < threshold + tolerance" if self.harmful == "lower" else "score > threshold - tolerance"
        content = {"lockgate_threshold": _FORMAT, "flag_if": rule, **asdict(self)}
        content["length_deciles"] = list(self.length_deciles)
        return content

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file as a whole.

        Raises:
            ExchangeError: the folder does not exist.
        """
        with open_atomic(path) as file:
            file.write(json.dumps(self.to_dict(), indent=2, allow_nan=False).encode() + b"\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ScoreThreshold":
        """Read a file that `write` made.

        Raises:
            CalibrationError: it can't be read, or is no such file.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            found = content.pop("lockgate_threshold"), content.pop("flag_if")
            content["length_deciles"] = tuple(content["length_deciles"])
            made = cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(
                f"{path}: not a threshold file ({type(error).__name__}); expected one that "
                "`lockgate calibrate --scores` wrote"
            ) from None
        if found != (_FORMAT, made.to_dict()["flag_if"]):
            raise CalibrationError(f"{path}: expected format {_FORMAT} of a threshold file")
        return made
