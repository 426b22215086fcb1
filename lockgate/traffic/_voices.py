"""The shares of a second stage's voices, chosen on development exchanges like the mixing weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import calibrate_cascade
from lockgate.errors import CalibrationError
from lockgate.guards import VoiceRecord
from lockgate.traffic._staging import StagedScores

SHARES = tuple(round(0.1 * step, 1) for step in range(11))


class ShareRow(NamedTuple):
    """The text baseline's share in the second stage, and the TPR that the best mixing weight reaches."""

    share: float
    tpr: float


@dataclass(frozen=True, slots=True)
class ChosenVoices:
    """The voices of a second stage and the evidence for their shares.

    Attributes:
        voices: the voices that are kept. One without a share is left out.
        shares: what each share of the text baseline catches on development exchanges.
    """

    voices: tuple[VoiceRecord, ...]
    shares: tuple[ShareRow, ...]


def choose_voices(
    benign: StagedScores, quiet: StagedScores, loud: StagedScores, settings: dict[str, Any]
) -> ChosenVoices:
    """Choose how an exchange classifier and a text baseline are mixed.

    Each share is tried with every mixing weight of the probe, at the low false-positive rate where
    `calibrate_cascade` compares weights. The share that catches most wins. In a tie, the share nearest to one
    half wins.

    Args:
        benign: scores of the traffic. The scales of the voices come from it.
        quiet, loud: scores of the harmless and of the harmful development exchanges.
        settings: other arguments of `calibrate_cascade`.

    Raises:
        CalibrationError: the logits of a voice do not differ, a reading failed, or `calibrate_cascade` fails.
    """
    first = 0 if settings["flag_on"] == "both" else 1
    scales = {kind: _scale(kind, benign.voices[kind], first) for kind in ("classifier", "text")}

    def of_share(share: float) -> tuple[VoiceRecord, ...]:
        parts = (("classifier", round(1.0 - share, 4)), ("text", share))
        return tuple(
            VoiceRecord(kind=kind, weight=weight, mean=scales[kind][0], std=scales[kind][1])  # type: ignore[arg-type]
            for kind, weight in parts
            if weight
        )

    rows = []
    for share in SHARES:
        voices = of_share(share)
        found = calibrate_cascade(
            benign.mixed(voices).traces,
            benign.table.groups,
            development_benign=quiet.mixed(voices).traces,
            development_harmful=loud.mixed(voices).traces,
            **settings,
        )
        rows.append(ShareRow(share, max(row.tpr for row in found.weights)))
    best = max(rows, key=lambda row: (row.tpr, -abs(row.share - 0.5))).share
    return ChosenVoices(of_share(best), tuple(rows))


def _scale(kind: str, logits: Sequence[NDArray[np.float64]], first: int) -> tuple[float, float]:
    """Return the mean and standard deviation of a voice's largest logit over exchanges."""
    largest = np.array([row[first:].max() for row in logits if len(row) > first])
    if not np.isfinite(largest).all():
        raise CalibrationError(f"traffic: a verdict of the {kind} failed; score those rows again")
    if len(largest) < 2 or not largest.std() > 0:
        raise CalibrationError(f"traffic: logits of the {kind} on at least two exchanges must differ")
    return float(largest.mean()), float(largest.std())
