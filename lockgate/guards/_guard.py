"""A guard: a policy, a probe and its thresholds, bound to the backbone they were made for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lockgate._version import __version__
from lockgate.backbones import Backbone
from lockgate.calibration import Calibration
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import Constitution
from lockgate.errors import BackboneMismatch, CalibrationError
from lockgate.evaluation import ScoresTable
from lockgate.exchanges import Exchange, Message, messages_from_list
from lockgate.guards._bundle import EMBEDDED, Bundle, file_sha256, read_bundle, write_bundle
from lockgate.guards._card import write_card
from lockgate.guards._record import (
    BackboneRecord,
    ConstitutionRecord,
    GuardRecord,
    ThresholdRecord,
    TrainingRecord,
)
from lockgate.guards._scoring import ExchangeScore, score_exchanges
from lockgate.guards._stream import GuardStream
from lockgate.training import WINDOW

# Another build of the same libraries moves the logits of the fixed tokens by less than this.
_FINGERPRINT_TOLERANCE = 0.05

Conversation = Sequence[Message] | Sequence[Mapping[str, Any]]


class Guard:
    """A loaded guard. `lockgate.load` makes one from a bundle, `Guard.create` from what was trained."""

    def __init__(self, bundle: Bundle, backbone: Backbone, path: Path | None = None) -> None:
        self.record = bundle.record
        self.constitution = bundle.constitution
        self.head = bundle.head
        self.thresholds: Thresholds = bundle.record.thresholds.to_thresholds()
        self.backbone = backbone
        self.path = path
        self._constitution_yaml = bundle.constitution_yaml

    @classmethod
    def load(
        cls, source: str | Path = "embedded", *, backbone: Backbone | str | Path | None = None
    ) -> "Guard":
        """Load a bundle and the backbone it was made for.

        Args:
            source: path of a bundle, or `embedded`.
            backbone: the backbone or where it lies; by default the embedded one.

        Raises:
            GuardError: the bundle is damaged. BackboneError: the backbone is not there.
            BackboneMismatch: the backbone is not the one that the guard was made for.
        """
        path = EMBEDDED if str(source) == "embedded" else Path(source)
        bundle = read_bundle(path)
        if not isinstance(backbone, Backbone):
            backbone = Backbone.load("embedded" if backbone is None else backbone)
        _verify_backbone(bundle.record.backbone, backbone)
        return cls(bundle, backbone, path)

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
    ) -> "Guard":
        """Bind freshly trained parts together; uncalibrated until `with_calibration`."""
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
        return cls(Bundle(record, constitution, constitution_yaml, head), backbone)

    @property
    def calibration(self) -> Calibration | None:
        """The evidence behind the threshold; None for a guard that may claim no budget."""
        return Calibration.from_dict(self.record.calibration) if self.record.calibration else None

    @property
    def sha256(self) -> str:
        """Hash of `guard.yaml`, which holds the hashes of all else; empty for a guard not saved yet."""
        return file_sha256(self.path / "guard.yaml") if self.path else ""

    def score(self, messages: Conversation) -> ExchangeScore:
        """Score one exchange (or a prompt alone) as serving would.

        Raises:
            ExchangeError: a message is malformed, or the roles stand in an order that the template refuses.
        """
        exchange = Exchange(_messages(messages))
        return next(iter(score_exchanges(self.backbone, [self.head], [self.thresholds], [exchange])))[0]

    def stream(self, messages: Conversation, *, max_tokens: int = 2048) -> GuardStream:
        """Watch an answer while it is written.

        Args:
            max_tokens: longest answer; memory for it is reserved, as far as the context goes.

        Raises:
            ExchangeError: a message is malformed. BackboneError: an order of roles that the template refuses.
            ContextOverflow: the prompt is longer than the backbone's context.
        """
        return GuardStream(self.backbone, self.head, self.thresholds, _messages(messages), max_tokens)

    def score_file(
        self,
        input: str | Path,  # noqa: A002
        output: str | Path,
        *,
        skip_invalid: bool = False,
        workers: int = 1,
        report: Callable[[int], None] = lambda _: None,
    ) -> ScoresTable:
        """Score a file of exchanges into a scores table; an interrupted run goes on where it stopped.

        Args:
            workers: processes, one thread each; the table is the same whatever their number.
            report: told after each chunk how many exchanges are done.
        """
        from lockgate.guards._files import score_file

        return score_file(
            self, Path(input), Path(output), skip_invalid=skip_invalid, workers=workers, report=report
        )

    def with_calibration(
        self, calibration: Calibration, *, flag_on: str | None = None, claim: Sequence[str] = ()
    ) -> "Guard":
        """The same guard with another threshold and the evidence for it."""
        if calibration.tolerance < 0:
            raise CalibrationError("tolerance: expected a number >= 0")
        update: dict[str, Any] = {"flag": calibration.threshold, "tolerance": calibration.tolerance}
        if flag_on is not None:
            update["flag_on"] = flag_on
        record = self.record.model_copy(
            update={
                "thresholds": self.record.thresholds.model_copy(update=update),
                "calibration": calibration.to_dict(),
                "claim": list(claim),
            }
        )
        return Guard(Bundle(record, self.constitution, self._constitution_yaml, self.head), self.backbone)

    def save(self, path: str | Path, *, results: Mapping[str, Any] | None = None) -> "Guard":
        """Write the bundle, with a model card made from its record and, if given, evaluation results.

        Returns:
            The guard as loaded from there.
        """
        card = write_card(self.record, self.constitution, results)
        write_bundle(Path(path), self.record, self._constitution_yaml, self.head, card)
        return Guard.load(path, backbone=self.backbone)


def _messages(messages: Conversation) -> tuple[Message, ...]:
    return messages_from_list(list(messages) if isinstance(messages, Sequence) else messages)


def _threshold_record(thresholds: Thresholds) -> ThresholdRecord:
    return ThresholdRecord(
        flag=thresholds.flag,
        tolerance=thresholds.tolerance,
        min_tokens=thresholds.min_tokens,
        flag_on=thresholds.flag_on,
    )


def _verify_backbone(record: BackboneRecord, backbone: Backbone) -> None:
    identity = backbone.identity
    differing = sorted(
        key
        for key in {*record.hashes, *identity.hashes}
        if record.hashes.get(key) != identity.hashes.get(key)
    )
    if differing or record.layer_convention != identity.layer_convention:
        raise BackboneMismatch(
            f"the guard was made for backbone {record.name}; {identity.name} differs in "
            f"{', '.join(differing) or 'layer_convention'}. "
            "Give the right one with --backbone, or train on this one"
        )
    if record.dtype != identity.dtype:
        raise BackboneMismatch(
            f"the guard was made for {record.dtype}, the backbone is loaded in {identity.dtype}"
        )
    pairs = zip(record.fingerprint, identity.fingerprint, strict=False)
    worst = float(np.max([abs(a - b) for a, b in pairs] or [0.0]))  # NaN if any is
    if len(record.fingerprint) != len(identity.fingerprint) or not worst <= _FINGERPRINT_TOLERANCE:
        raise BackboneMismatch(
            f"the backbone's files are the right ones, but its logits differ by {worst:.3f} from those "
            "that the guard was made with: this installation computes something else; run: lockgate doctor"
        )
