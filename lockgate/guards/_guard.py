"""A guard: a policy, a probe and its thresholds, bound to the backbone they were made for."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockgate._version import __version__
from lockgate.backbones import Backbone
from lockgate.calibration import Calibration, CascadeCalibration
from lockgate.cascade import Cascade, Thresholds
from lockgate.classifiers import WINDOW, ExchangeClassifier, ProbeHead
from lockgate.classifiers.text import TextBaseline
from lockgate.constitution import Constitution
from lockgate.durable import file_sha256
from lockgate.errors import CalibrationError, ConfigError, GuardError, PrecisionWarning
from lockgate.exchanges import Exchange, Message, PromptPrints, messages_from_list
from lockgate.guards._bundle import CLASSIFIER, JUDGE, TEXT, Bundle, bundle_folder, read_bundle, write_bundle
from lockgate.guards._card import write_card
from lockgate.guards._checks import (
    check_classifier,
    check_judge,
    check_text,
    precision_shift,
    verify_backbone,
)
from lockgate.guards._panel import second_stage
from lockgate.guards._record import (
    BackboneRecord,
    CascadeRecord,
    ConstitutionRecord,
    GuardRecord,
    JudgeRecord,
    ProvisionalRecord,
    SecondStageRecord,
    TextRecord,
    ThresholdRecord,
    TrainingRecord,
    VoiceRecord,
    check_judges,
    check_voices,
)
from lockgate.guards._scoring import ExchangeScore, score_exchanges
from lockgate.guards._stages import Stages
from lockgate.guards._stream import GuardStream

if TYPE_CHECKING:
    from lockgate.judges import Judge

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
        BackboneMismatch, GuardError: a judge of the second stage does not fit the guard, as in `create`.
    """

    def __init__(
        self,
        bundle: Bundle,
        backbone: Backbone,
        path: Path | None = None,
        classifier: ExchangeClassifier | None = None,
        text: TextBaseline | None = None,
        judge: "Judge | None" = None,
    ) -> None:
        self.record = bundle.record
        self.constitution = bundle.constitution
        cascade = None if bundle.record.cascade is None else bundle.record.cascade.to_cascade()
        second = second_stage(backbone, classifier, text, bundle.record.voices, judge)
        self.stages = Stages(bundle.head, bundle.record.thresholds.to_thresholds(), cascade, second)
        if classifier is not None:
            check_classifier(bundle.record, bundle.constitution, backbone, classifier)
        if text is not None:
            check_text(bundle.record, text)
        if judge is not None:
            check_judge(bundle.record, judge)
        self.backbone = backbone
        self.path = path
        self.training_prompts = bundle.prompts
        self._bundle = bundle
        self._classifier, self._text, self._judge = classifier, text, judge

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
            source: path of a bundle, or the name of one in the package (see `bundle_folder`).
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
        path = bundle_folder(source)
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
        classifier, text = None, None
        if bundle.record.classifier is not None:
            classifier = ExchangeClassifier.load(path / CLASSIFIER, backbone)
        if bundle.record.text is not None:
            text = TextBaseline.load(path / TEXT)
        judge = None
        if bundle.record.judge is not None:
            # Guards without a judge must not wait for the import.
            from lockgate.judges import open_judge, read_judge_file

            judge = open_judge(read_judge_file(path / JUDGE))
        return cls(bundle, backbone, path, classifier, text, judge)

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
        text: TextBaseline | None = None,
        voices: Sequence[VoiceRecord] | None = None,
        judge: "Judge | None" = None,
        cascade: Cascade | None = None,
    ) -> "Guard":
        """Make a guard from trained parts. It is uncalibrated until `with_calibration`.

        Args:
            constitution_yaml: the constitution's file as text. The bundle holds it unchanged.
            head: the probe, stage 1.
            thresholds: when the probe alone flags.
            training: how the probe was trained.
            training_prompts: fingerprints of the prompts that the parts were trained on.
            classifier, text: the judges of the second stage, if there is one.
            voices: how the judges are mixed, one voice for each. A single judge needs none.
            judge: a judge of text, in place of `classifier` and `text`.
            cascade: the rule by which both stages decide. Give it if there is a judge.

        Raises:
            BackboneMismatch: the classifier was made for another backbone.
            GuardError: the classifier was trained for another policy, a judge does not read exchanges,
                `voices` does not fit the judges, or there are judges without `cascade` or `cascade` without
                judges.
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
        if classifier is None and text is None and judge is None and cascade is None and voices is None:
            return guard
        if cascade is None:
            raise GuardError("a guard of two stages needs both a classifier and a cascade; give both")
        return guard.with_cascade(classifier, cascade, text=text, voices=voices, judge=judge)

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
        """The exchange classifier of the second stage; None if there is none."""
        return self._classifier

    @property
    def text(self) -> TextBaseline | None:
        """The text baseline of the second stage; None if there is none."""
        return self._text

    @property
    def judge(self) -> "Judge | None":
        """The judge of text that is the second stage; None if there is none."""
        return self._judge

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

    def with_cascade(
        self,
        classifier: ExchangeClassifier | None,
        cascade: Cascade | CascadeCalibration,
        *,
        text: TextBaseline | None = None,
        voices: Sequence[VoiceRecord] | None = None,
        judge: "Judge | None" = None,
    ) -> "Guard":
        """Return the same guard with a second stage. The old calibration is dropped.

        If `cascade` is a `CascadeCalibration`, the new guard gets its calibration. The prompts that the
        judges were trained on are added to the guard's training prompts.

        Args:
            classifier, text: the judges. Give at least one, or `judge`.
            cascade: the rule by which both stages decide. It standardises the second stage's one logit.
            voices: how two judges are mixed into that logit.
            judge: a judge of text. It is asked alone.

        Raises:
            BackboneMismatch, GuardError: a judge or `voices` does not fit the guard, as in `create`.
            CalibrationError: the cascade was calibrated for another `flag_on`.
        """
        if isinstance(cascade, CascadeCalibration):
            self._check_flag_on(cascade)
            ready = self.with_cascade(classifier, cascade.cascade, text=text, voices=voices, judge=judge)
            return ready.with_calibration(cascade.calibration)
        if classifier is None and text is None and judge is None:
            raise GuardError("a guard of two stages needs both a classifier and a cascade; give both")
        record = self.record.model_copy(
            update={
                "classifier": None if classifier is None else _classifier_record(classifier),
                "text": None if text is None else TextRecord(sha256=text.sha256),
                "judge": None if judge is None else _judge_record(judge),
                "voices": None if voices is None else list(voices),
                "cascade": CascadeRecord(**asdict(cascade)),
                "calibration": None,
                "provisional": None,
                "claim": [],
            }
        )
        try:
            check_judges(record)
            check_voices(record.judges, record.voices)
        except ValueError as error:
            raise GuardError(str(error)) from None
        made = self._bundle._replace(record=record)
        guard = Guard(made, self.backbone, classifier=classifier, text=text, judge=judge)
        for part in (classifier, text, judge):
            if part is not None and part.training_prompts is not None:
                guard = guard.with_training_prompts(part.training_prompts)
        return guard

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
        return self._with(record=self.record.model_copy(update=update))

    def with_precision(self, note: str | None = None) -> "Guard":
        """Return the same guard with a record that its threshold stands for how it computes now.

        Args:
            note: a line about that for the claim.
        """
        if self.precision_shift is None and note is None:
            return self
        found = BackboneRecord.model_validate(self.backbone.identity.to_dict())
        claim = [*self.record.claim, *([] if note is None else [note])]
        return self._with(record=self.record.model_copy(update={"backbone": found, "claim": claim}))

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
        return self._with(prompts=known)

    def _with(self, **changes: Any) -> "Guard":  # noqa: ANN401 - fields of `Bundle`
        changed = self._bundle._replace(**changes)
        return Guard(changed, self.backbone, classifier=self._classifier, text=self._text, judge=self._judge)

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
        write_bundle(Path(path), self._bundle, card, self._classifier, self._text, self._judge)
        if self._judge is not None:
            # It is loaded already, and a large one is not loaded twice.
            return Guard(read_bundle(Path(path)), self.backbone, Path(path), judge=self._judge)
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


def _classifier_record(classifier: ExchangeClassifier) -> SecondStageRecord:
    return SecondStageRecord.model_construct(
        name=classifier.name, reads=classifier.reads, head=classifier.head, sha256=classifier.sha256
    )


def _judge_record(judge: "Judge") -> JudgeRecord:
    return JudgeRecord(kind=judge.file.kind, name=judge.file.shown, sha256=judge.sha256)


def _threshold_record(thresholds: Thresholds) -> ThresholdRecord:
    return ThresholdRecord(
        flag=thresholds.flag,
        tolerance=thresholds.tolerance,
        min_tokens=thresholds.min_tokens,
        flag_on=thresholds.flag_on,
    )
