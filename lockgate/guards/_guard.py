"""A guard: a policy, a probe and its thresholds, bound to the backbone they were made for."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockgate._version import __version__
from lockgate.backbones import Backbone
from lockgate.calibration import Calibration, CascadeCalibration
from lockgate.cascade import Cascade, Thresholds
from lockgate.classifiers import WINDOW, ExchangeClassifier, ProbeHead
from lockgate.constitution import Constitution
from lockgate.durable import file_sha256
from lockgate.errors import CalibrationError, ConfigError, GuardError, PrecisionWarning
from lockgate.exchanges import Exchange, Message, PromptPrints, messages_from_list
from lockgate.guards._bundle import CLASSIFIER, EMBEDDED, Bundle, read_bundle, write_bundle
from lockgate.guards._card import write_card
from lockgate.guards._checks import check_classifier, precision_shift, verify_backbone
from lockgate.guards._record import (
    BackboneRecord,
    CascadeRecord,
    ConstitutionRecord,
    GuardRecord,
    ProvisionalRecord,
    SecondStageRecord,
    ThresholdRecord,
    TrainingRecord,
)
from lockgate.guards._scoring import ExchangeScore, score_exchanges
from lockgate.guards._stages import Stages
from lockgate.guards._stream import GuardStream
from lockgate.guards._verdicts import ClassifierStage

Conversation = Sequence[Message] | Sequence[Mapping[str, Any]]


class Guard:
    """A loaded guard. `lockgate.load` makes one from a bundle, `Guard.create` from trained parts.

    Attributes:
        stages: the stages that judge. All scoring goes through them.
        record: the content of `guard.yaml`.
        constitution: the policy that the guard keeps.
        backbone: the backbone that it is bound to.
        path: folder of its bundle; None if it is not saved yet.
        training_prompts: fingerprints of the prompts it was trained on; None if the bundle holds none.

    Raises:
        BackboneMismatch, GuardError: the classifier does not fit the guard, as in `create`.
    """

    def __init__(
        self,
        bundle: Bundle,
        backbone: Backbone,
        path: Path | None = None,
        classifier: ExchangeClassifier | None = None,
    ) -> None:
        self.record = bundle.record
        self.constitution = bundle.constitution
        cascade, second = None, None
        if bundle.record.cascade is not None:
            cascade = bundle.record.cascade.to_cascade()
        if classifier is not None:
            second = ClassifierStage(classifier)
        self.stages = Stages(bundle.head, bundle.record.thresholds.to_thresholds(), cascade, second)
        if classifier is not None:
            check_classifier(bundle.record, bundle.constitution, backbone, classifier)
        self.backbone = backbone
        self.path = path
        self.training_prompts = bundle.prompts
        self._bundle = bundle
        self._classifier = classifier

    @classmethod
    def load(
        cls,
        source: str | Path = "embedded",
        *,
        backbone: Backbone | str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> "Guard":
        """Load a bundle and the backbone it was made for.

        Args:
            source: path of a bundle, or `embedded`.
            backbone: the backbone or its folder. By default it is the embedded one.
            device: see `Backbone.load`.
            dtype: see `Backbone.load`. `auto` is the precision that the guard's threshold was set in.

        Raises:
            ConfigError: the device or precision is not there, or `backbone` is loaded in another one.
            GuardError: the bundle is missing or damaged.
            BackboneError: the backbone is missing or not usable.
            BackboneMismatch: the guard was made for another backbone.

        Warns:
            PrecisionWarning: the threshold was set in another precision, or on another kind of device.
        """
        path = EMBEDDED if str(source) == "embedded" else Path(source)
        bundle = read_bundle(path)
        if isinstance(backbone, Backbone):
            _check_loaded(backbone, device, dtype)
        else:
            recorded = bundle.record.backbone.dtype
            backbone = Backbone.load(
                "embedded" if backbone is None else backbone,
                device=device,
                dtype=recorded if dtype == "auto" else dtype,
            )
        made = cls._bind(bundle, backbone, path)
        if made.precision_shift is not None:
            warnings.warn(
                f"guard {made.record.name}: {made.precision_shift}; its budget is not shown for that "
                "(lockgate calibrate --transfer measures the difference)",
                PrecisionWarning,
                stacklevel=2,
            )
        return made

    @classmethod
    def _bind(cls, bundle: Bundle, backbone: Backbone, path: Path) -> "Guard":
        verify_backbone(bundle.record.backbone, backbone)
        classifier = None
        if bundle.record.classifier is not None:
            classifier = ExchangeClassifier.load(path / CLASSIFIER, backbone)
        return cls(bundle, backbone, path, classifier)

    @classmethod
    def create(
        cls,
        *,
        name: str,
        backbone: Backbone,
        constitution: Constitution,
        constitution_yaml: str,
        head: ProbeHead,
        thresholds: Thresholds,
        training: TrainingRecord | None = None,
        training_prompts: PromptPrints | None = None,
        classifier: ExchangeClassifier | None = None,
        cascade: Cascade | None = None,
    ) -> "Guard":
        """Make a guard from trained parts. It is uncalibrated until `with_calibration`.

        Args:
            constitution_yaml: the constitution's file as text. The bundle holds it unchanged.
            head: the probe, stage 1.
            thresholds: when the probe alone flags.
            training: how the probe was trained.
            training_prompts: fingerprints of the prompts that the parts were trained on.
            classifier, cascade: the second stage, and the rule by which both decide. Give both or neither.

        Raises:
            BackboneMismatch: the classifier was made for another backbone.
            GuardError: the classifier was trained for another policy or does not read exchanges, or only one
                of `classifier` and `cascade` was given.
        """
        identity = backbone.identity.to_dict()
        record = GuardRecord(
            format=1,
            lockgate_version=__version__,
            name=name,
            backbone=BackboneRecord.model_validate(identity),
            constitution=ConstitutionRecord(
                name=constitution.name, version=str(constitution.version), sha256=""
            ),
            probe_sha256="",
            gamma=head.gamma,
            window=WINDOW,
            thresholds=_threshold_record(thresholds),
            training=training,
        )
        guard = cls(Bundle(record, constitution, constitution_yaml, head, training_prompts), backbone)
        if classifier is None and cascade is None:
            return guard
        if classifier is None or cascade is None:
            raise GuardError("a guard of two stages needs both a classifier and a cascade; give both")
        return guard.with_cascade(classifier, cascade)

    @property
    def head(self) -> ProbeHead:
        """The probe, stage 1."""
        return self.stages.head

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds at which the probe alone flags."""
        return self.stages.thresholds

    @property
    def cascade(self) -> Cascade | None:
        """The rule by which two stages decide; None if the probe decides alone."""
        return self.stages.cascade

    @property
    def classifier(self) -> ExchangeClassifier | None:
        """The exchange classifier, stage 2; None if the guard has one stage."""
        return self._classifier

    @property
    def calibration(self) -> Calibration | None:
        """The threshold's calibration; None if the guard is uncalibrated and claims no budget."""
        return Calibration.from_dict(self.record.calibration) if self.record.calibration else None

    @property
    def precision_shift(self) -> str | None:
        """How the guard computes otherwise than when its threshold was set; None if it does not.

        Then the budget of the calibration is not shown for these scores.
        """
        return precision_shift(self.record.backbone, self.backbone)

    @property
    def sha256(self) -> str:
        """Hash of `guard.yaml`, which holds the hashes of the other files; empty if not saved yet."""
        return file_sha256(self.path / "guard.yaml") if self.path else ""

    def score(self, messages: Conversation) -> ExchangeScore:
        """Score one exchange, or a prompt alone, as serving would.

        Raises:
            ExchangeError: a message is malformed, or the template refuses the order of the roles.
        """
        exchange = Exchange(_messages(messages))
        return next(iter(self.score_many([exchange])))

    def score_many(
        self,
        exchanges: Iterable[Exchange],
        *,
        first_number: int = 0,
        all_blocks: bool = False,
        screen: bool = False,
    ) -> Iterator[ExchangeScore]:
        """Score exchanges in input order, in packed steps and bounded memory.

        Args:
            first_number: number of the first exchange, for callers that score a file in chunks.
            all_blocks: let stage 2 judge every block, not only blocks that escalate.
            screen: score with stage 1 alone; it flags what stage 2 would be asked about (`Stages.screen`).

        Raises:
            ExchangeError: the chat template refuses an exchange. The message names its number.
            GuardError: `all_blocks` is set and the guard has one stage.
        """
        stages = self.stages.screen if screen else self.stages
        found = score_exchanges(
            self.backbone, [stages], exchanges, first_number=first_number, all_blocks=all_blocks
        )
        for (score,) in found:
            yield score

    def stream(self, messages: Conversation, *, max_tokens: int = 2048) -> GuardStream:
        """Open a stream that scores an answer while it is written.

        Args:
            messages: the conversation before the answer.
            max_tokens: longest answer. Memory for it is reserved, up to the end of the context.

        Raises:
            ExchangeError: a message is malformed.
            BackboneError: the template refuses the order of the roles.
            ContextOverflow: the prompt fills the backbone's context.
        """
        return GuardStream(self.backbone, self.stages, _messages(messages), max_tokens)

    def with_cascade(self, classifier: ExchangeClassifier, cascade: Cascade | CascadeCalibration) -> "Guard":
        """Return the same guard with a second stage. The old calibration is dropped.

        If `cascade` is a `CascadeCalibration`, the new guard gets its calibration. The prompts that the
        classifier was trained on are added to the guard's training prompts.

        Raises:
            BackboneMismatch, GuardError: the classifier does not fit the guard, as in `create`.
            CalibrationError: the cascade was calibrated for another `flag_on`.
        """
        if isinstance(cascade, CascadeCalibration):
            self._check_flag_on(cascade)
            return self.with_cascade(classifier, cascade.cascade).with_calibration(cascade.calibration)
        update: dict[str, Any] = {
            "classifier": SecondStageRecord.model_construct(
                name=classifier.name, reads=classifier.reads, head=classifier.head, sha256=classifier.sha256
            ),
            "cascade": CascadeRecord(**asdict(cascade)),
            "calibration": None,
            "provisional": None,
            "claim": [],
        }
        record = self.record.model_copy(update=update)
        guard = Guard(self._bundle._replace(record=record), self.backbone, classifier=classifier)
        prompts = classifier.training_prompts
        return guard if prompts is None else guard.with_training_prompts(prompts)

    def with_calibration(
        self, calibration: Calibration, *, flag_on: str | None = None, claim: Sequence[str] = ()
    ) -> "Guard":
        """Return the same guard with a calibrated threshold.

        With two stages it is the threshold of the mixed score.

        Args:
            flag_on: whether the last user turn may flag too; None keeps the guard's setting.
            claim: lines about the traffic and the claim, for the record and the model card.

        Raises:
            CalibrationError: the tolerance is negative.
        """
        if calibration.tolerance < 0:
            raise CalibrationError("tolerance: expected a number >= 0")
        found: dict[str, Any] = {"flag": calibration.threshold, "tolerance": calibration.tolerance}
        thresholds: dict[str, Any] = {} if flag_on is None else {"flag_on": flag_on}
        update: dict[str, Any] = {
            "calibration": calibration.to_dict(),
            "provisional": None,
            "claim": list(claim),
        }
        if self.record.cascade is None:
            thresholds |= found
        else:
            update["cascade"] = self.record.cascade.model_copy(update=found)
        update["thresholds"] = self.record.thresholds.model_copy(update=thresholds)
        record = self.record.model_copy(update=update)
        return Guard(self._bundle._replace(record=record), self.backbone, classifier=self._classifier)

    def with_precision(self, note: str | None = None) -> "Guard":
        """Return the same guard with a record that its threshold stands for how it computes now.

        Args:
            note: a line about that for the claim.
        """
        if self.precision_shift is None and note is None:
            return self
        found = BackboneRecord.model_validate(self.backbone.identity.to_dict())
        claim = [*self.record.claim, *([] if note is None else [note])]
        record = self.record.model_copy(update={"backbone": found, "claim": claim})
        return Guard(self._bundle._replace(record=record), self.backbone, classifier=self._classifier)

    def with_provisional(self, thresholds: Thresholds, provisional: ProvisionalRecord) -> "Guard":
        """Return the same guard with a provisional threshold. It supports no claim.

        Raises:
            GuardError: the guard has two stages.
        """
        if self.record.cascade is not None:
            raise GuardError("a guard of two stages takes its threshold from a calibration")
        update: dict[str, Any] = {
            "thresholds": _threshold_record(thresholds),
            "calibration": None,
            "provisional": provisional,
            "claim": [],
        }
        record = self.record.model_copy(update=update)
        return Guard(self._bundle._replace(record=record), self.backbone)

    def with_training_prompts(self, prompts: PromptPrints) -> "Guard":
        """Return the same guard with fingerprints of more training prompts."""
        known = prompts if self.training_prompts is None else self.training_prompts | prompts
        return Guard(self._bundle._replace(prompts=known), self.backbone, classifier=self._classifier)

    def _check_flag_on(self, found: CascadeCalibration) -> None:
        if found.flag_on != self.thresholds.flag_on:
            raise CalibrationError(
                f"the cascade was calibrated with flag_on = {found.flag_on}, the guard has "
                f"{self.thresholds.flag_on}; calibrate with the guard's own"
            )

    def save(
        self, path: str | Path, *, results: Mapping[str, Any] | None = None, measured: str = ""
    ) -> "Guard":
        """Write the bundle with its model card.

        Args:
            results: content of a result file, for the card's table of results.
            measured: a section in Markdown that the card has instead of that table.

        Returns:
            The guard, loaded again from `path`.

        Raises:
            GuardError: something that is not a bundle is at `path`.
        """
        prompts = 0 if self.training_prompts is None else len(self.training_prompts)
        card = write_card(
            self.record, self.constitution, results, training_prompts=prompts, measured=measured
        )
        write_bundle(Path(path), self._bundle, card, self._classifier)
        return Guard._bind(read_bundle(Path(path)), self.backbone, Path(path))


def _messages(messages: Conversation) -> tuple[Message, ...]:
    return messages_from_list(list(messages) if isinstance(messages, Sequence) else messages)


def _check_loaded(backbone: Backbone, device: str, dtype: str) -> None:
    """Refuse another device or precision than that of a loaded backbone. Raises ConfigError."""
    found = backbone.placement
    for name, wanted, there in (("device", device, found.device), ("dtype", dtype, found.dtype)):
        if wanted != "auto" and wanted != there and not there.startswith(f"{wanted}:"):
            raise ConfigError(
                f"{name} {wanted}: the backbone is loaded already, in {found}; leave {name} out"
            )


def _threshold_record(thresholds: Thresholds) -> ThresholdRecord:
    return ThresholdRecord(
        flag=thresholds.flag,
        tolerance=thresholds.tolerance,
        min_tokens=thresholds.min_tokens,
        flag_on=thresholds.flag_on,
    )
