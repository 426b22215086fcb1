"""The schema of `guard.yaml`: what a bundle says of itself. Unknown keys are errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lockgate.cascade import Thresholds


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(_Strict):
    """The backbone a guard was made for; see `BackboneIdentity`."""

    name: str
    hashes: dict[str, Any]
    dtype: str
    layer_convention: str
    fingerprint: list[float]


class ConstitutionRecord(_Strict):
    """Which policy the guard keeps; the policy itself is `constitution.yaml`."""

    name: str
    version: str
    sha256: str


class ThresholdRecord(_Strict):
    """When the guard flags; see `Thresholds`."""

    flag: float
    tolerance: float
    min_tokens: int
    flag_on: Literal["answer", "both"]

    def to_thresholds(self) -> Thresholds:
        """The object that streams use."""
        return Thresholds(self.flag, self.tolerance, self.min_tokens, self.flag_on)


class TrainingRecord(_Strict):
    """On what and how the probe was trained."""

    recipe: str
    config: dict[str, Any]
    exchanges: dict[str, dict[str, int]]
    tokens_seen: int
    data_sha256: str
    seeds: list[int]
    commit: str | None = None
    command: str | None = None
    notes: list[str] = []


class GuardRecord(_Strict):
    """All of `guard.yaml`. `calibration` is None for a guard that may claim no budget yet."""

    format: Literal[1]
    lockgate_version: str
    name: str
    backbone: BackboneRecord
    constitution: ConstitutionRecord
    probe_sha256: str
    gamma: float
    window: int
    thresholds: ThresholdRecord
    calibration: dict[str, Any] | None = None
    claim: list[str] = []
    training: TrainingRecord | None = None
