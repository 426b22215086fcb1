"""The schema of `guard.yaml`, the record of a bundle. Unknown keys are errors."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lockgate.cascade import Cascade, Thresholds
from lockgate.durable import hash_json


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


class TextRecord(_Strict):
    """The text baseline that judges in a second stage. Its files are in `text/`.

    Attributes:
        sha256: hash of the baseline; see `TextBaseline.sha256`.
        files: SHA-256 of each file.
    """

    sha256: str
    files: dict[str, str] = {}


class JudgeRecord(_Strict):
    """The judge that a second stage asks. Its settings are in `judge.yaml`, its weights are elsewhere.

    Attributes:
        kind: what sort of judge it is; see `lockgate.judges`.
        name: its name in reports.
        sha256: its identity, see `Judge.sha256`. A local folder that has changed no longer fits it.
        file_sha256: SHA-256 of `judge.yaml`.
    """

    kind: Literal["sequence-classifier", "guard-model", "classifier", "endpoint"]
    name: str
    sha256: str
    file_sha256: str = ""


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class VoiceRecord(_Strict):
    """One judge of a second stage that mixes several; see `Voice`.

    Attributes:
        kind: the exchange classifier or the text baseline.
        weight: its weight in the sum of standardised logits.
        mean, std: its logits are standardised with these.
    """

    kind: Literal["classifier", "text"]
    weight: Annotated[_Finite, Field(ge=0)]
    mean: _Finite = 0.0
    std: Annotated[_Finite, Field(gt=0)] = 1.0


class CascadeRecord(_Strict):
    """The rule by which both stages decide together; see `Cascade`.

    A `drift` or `delay` of 0 is not written.
    """

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
    drift: Annotated[_Finite, Field(ge=0)] = 0.0
    delay: Annotated[int, Field(ge=0)] = 0

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
    its threshold, if known. `cascade` is set if the guard has a second stage: `classifier`, `text` or both,
    or a `judge` alone. The mixed score then decides, and `thresholds.flag` is the threshold that the probe
    alone would have.
    `voices` says how the judges of the second stage are mixed. A single judge needs no `voices`.
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
    text: TextRecord | None = None
    judge: JudgeRecord | None = None
    voices: list[VoiceRecord] | None = None
    cascade: CascadeRecord | None = None

    @property
    def stages(self) -> int:
        """Number of stages, 1 or 2."""
        return 1 if self.cascade is None else 2

    @property
    def decides(self) -> ThresholdRecord | CascadeRecord:
        """The part with the `flag` and `tolerance` that decide."""
        return self.cascade or self.thresholds

    @property
    def measure(self) -> str:
        """Hash of all that gives the score that decides, without the threshold that it is compared with.

        Guards with one measure give the same exchange the same score. So scores that one of them recorded may
        be compared with the threshold of another. With two stages the escalation threshold is a part of it:
        it says which blocks have a mixed score.
        """
        parts: dict[str, Any] = {
            "probe": self.probe_sha256,
            "gamma": self.gamma,
            "window": self.window,
            "min_tokens": self.thresholds.min_tokens,
        }
        if self.cascade is not None:
            judges = [None if part is None else part.sha256 for part in (self.classifier, self.text)]
            parts |= {
                "flag_on": self.thresholds.flag_on,
                "judges": judges if self.judge is None else [*judges, self.judge.sha256],
                "voices": [voice.model_dump() for voice in self.voices or ()],
                "cascade": self.cascade.model_dump(exclude={"flag", "tolerance"}),
            }
        return hash_json(parts)

    @property
    def judges(self) -> tuple[str, ...]:
        """The kinds of judges in the second stage; none with one stage."""
        parts = {"classifier": self.classifier, "text": self.text, "judge": self.judge}
        return tuple(kind for kind, part in parts.items() if part is not None)

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> "GuardRecord":
        if bool(self.judges) != (self.cascade is not None):
            raise ValueError("a cascade belongs to a classifier or a text baseline, or to a judge: give both")
        check_judges(self)
        return self

    @model_validator(mode="after")
    def _has_a_voice_for_each_judge(self) -> "GuardRecord":
        check_voices(self.judges, self.voices)
        return self


def check_judges(record: GuardRecord) -> None:
    """Check that a judge of text is alone in its second stage. Raises ValueError if it is not."""
    if record.judge is not None and len(record.judges) > 1:
        raise ValueError(f"judge: it is asked alone, and found beside {', '.join(record.judges[:-1])}")


def check_voices(judges: Sequence[str], voices: Sequence[VoiceRecord] | None) -> None:
    """Check that each judge of a second stage has one voice.

    Raises:
        ValueError: a voice is missing, is there twice, has no judge, or all weights are 0.
    """
    if voices is None:
        if len(judges) > 1:
            raise ValueError(f"voices: expected one for each of {', '.join(judges)}, with its weight")
        return
    found = [voice.kind for voice in voices]
    if sorted(found) != sorted(judges) or not judges:
        raise ValueError(
            f"voices: expected one for each of {', '.join(judges) or 'no judges'}, "
            f"found {', '.join(found) or 'none'}"
        )
    if not any(voice.weight for voice in voices):
        raise ValueError("voices: expected at least one with a weight above 0")
