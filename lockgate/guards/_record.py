"""The schema of `guard.yaml`: what a bundle says of itself. Unknown keys are errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from lockgate.cascade import Cascade, Thresholds


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


class SecondStageRecord(_Strict):
    """The exchange classifier of a guard with two stages, which lies in `classifier/`.

    Attributes:
        sha256: hash of what it is, see `ExchangeClassifier.sha256`.
        files: SHA-256 of each of its files.
    """

    name: str
    reads: Literal["exchange"]
    head: Literal["verdict", "value"]
    sha256: str
    files: dict[str, str] = {}


class CascadeRecord(_Strict):
    """How both stages decide together; see `Cascade`."""

    escalate: float
    flag: float
    weight: float
    probe_mean: float
    probe_std: float
    classifier_mean: float
    classifier_std: float
    stride: int
    calm_blocks: int
    tolerance: float

    def to_cascade(self) -> Cascade:
        """The object that streams use."""
        return Cascade(**self.model_dump())


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


class ProvisionalRecord(_Strict):
    """Where the threshold of a guard without calibration comes from. Nothing may be claimed by it.

    Attributes:
        source: the rows it stands above; `n` of them, of which a share of `quantile` may lie higher.
        reason: why it is not calibrated.
    """

    source: str
    n: int
    quantile: float
    reason: str


class PromptsRecord(_Strict):
    """Fingerprints of the prompts that the guard was trained on, which lie in `training.safetensors`."""

    count: int
    sha256: str


class GuardRecord(_Strict):
    """All of `guard.yaml`.

    `calibration` is None for a guard that may claim no budget yet; `provisional` then says, where it is
    known, what its threshold comes from. `classifier` and `cascade` stand there together or not at all; with
    them the mixed score decides, and `thresholds.flag` is what the probe alone would flag at.
    """

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
    provisional: ProvisionalRecord | None = None
    claim: list[str] = []
    training: TrainingRecord | None = None
    training_prompts: PromptsRecord | None = None
    classifier: SecondStageRecord | None = None
    cascade: CascadeRecord | None = None

    @property
    def stages(self) -> int:
        """1 or 2."""
        return 1 if self.cascade is None else 2

    @property
    def decides(self) -> ThresholdRecord | CascadeRecord:
        """The part whose `flag` and `tolerance` decide."""
        return self.cascade or self.thresholds

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> "GuardRecord":
        if (self.classifier is None) != (self.cascade is None):
            raise ValueError("classifier and cascade belong together: give both or neither")
        return self
