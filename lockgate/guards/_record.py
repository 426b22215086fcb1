"""The schema of `guard.yaml`, the record of a bundle. Unknown keys are errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from lockgate.cascade import Cascade, Thresholds


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(_Strict):
    """The backbone a guard was made for; see `BackboneIdentity`.

    `dtype`, `device` and `fingerprint` are those of the computation that set the guard's threshold. Records
    without a device were made on a CPU.
    """

    name: str
    hashes: dict[str, Any]
    dtype: str
    device: str = "cpu"
    layer_convention: str
    fingerprint: list[float]


class ConstitutionRecord(_Strict):
    """The policy that the guard keeps. Its text is in `constitution.yaml`."""

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
        """Return the thresholds that streams use."""
        return Thresholds(self.flag, self.tolerance, self.min_tokens, self.flag_on)


class SecondStageRecord(_Strict):
    """The exchange classifier of a guard with two stages. Its files are in `classifier/`.

    Attributes:
        sha256: hash of the classifier; see `ExchangeClassifier.sha256`.
        files: SHA-256 of each file.
    """

    name: str
    reads: Literal["exchange"]
    head: Literal["verdict", "value"]
    sha256: str
    files: dict[str, str] = {}


class CascadeRecord(_Strict):
    """The rule by which both stages decide together; see `Cascade`."""

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
        """Return the cascade that streams use."""
        return Cascade(**self.model_dump())


class TrainingRecord(_Strict):
    """The data and settings that the probe was trained with."""

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
    """The origin of an uncalibrated guard's threshold. Such a threshold supports no claim.

    Attributes:
        source: name of the rows that the threshold was chosen on.
        n: number of these rows.
        quantile: share of them that may lie above the threshold.
        reason: why the guard is not calibrated.
    """

    source: str
    n: int
    quantile: float
    reason: str


class PromptsRecord(_Strict):
    """The fingerprints of training prompts in `training.safetensors`: their number and the file's hash."""

    count: int
    sha256: str


class GuardRecord(_Strict):
    """The content of `guard.yaml`.

    An uncalibrated guard has no `calibration` and claims no budget. `provisional` then gives the origin of
    its threshold, if known. `classifier` and `cascade` are both set or both None. If they are set, the mixed
    score decides, and `thresholds.flag` is the threshold that the probe alone would have.
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
        """Number of stages, 1 or 2."""
        return 1 if self.cascade is None else 2

    @property
    def decides(self) -> ThresholdRecord | CascadeRecord:
        """The part with the `flag` and `tolerance` that decide."""
        return self.cascade or self.thresholds

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> "GuardRecord":
        if (self.classifier is None) != (self.cascade is None):
            raise ValueError("classifier and cascade belong together: give both or neither")
        return self
