"""Checks that the parts of a guard belong together: its backbone, its policy and both stages."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier
from lockgate.classifiers.text import TextBaseline
from lockgate.constitution import Constitution, hash_constitution
from lockgate.errors import BackboneMismatch, GuardError
from lockgate.guards._record import BackboneRecord, GuardRecord

if TYPE_CHECKING:
    from lockgate.judges import Judge

# Other builds of the same libraries change the logits of the fixed tokens by less than this.
_FINGERPRINT_TOLERANCE = 0.05
# Another precision changes them by this many roundings of their spread. The embedded backbone shows a quarter
# of it (results/engines.json, written by benchmarks/precision.py).
_ROUNDINGS = 100


def check_classifier(
    record: GuardRecord, constitution: Constitution, backbone: Backbone, classifier: ExchangeClassifier
) -> None:
    """Check that the second stage was made for the same backbone and policy as the first.

    Raises:
        BackboneMismatch: the classifier was made for another backbone.
        GuardError: it was trained for another policy, names none, does not read exchanges, or is not the
            classifier that the guard was made with.
    """
    if classifier.reads != "exchange":
        raise GuardError(
            f"classifier {classifier.name} reads {classifier.reads}s; the second stage of a guard must read "
            "exchanges, prompt and answer together"
        )
    made, found = classifier.record.backbone.get("hashes", {}), backbone.identity.hashes
    if differing := sorted(key for key in {*made, *found} if made.get(key) != found.get(key)):
        raise BackboneMismatch(
            f"classifier {classifier.name} was made for backbone {classifier.record.backbone.get('name')}, "
            f"the probe for {record.backbone.name}: they differ in {', '.join(differing)}. "
            "Train both on one backbone"
        )
    policy = (classifier.record.training or {}).get("constitution")
    if not isinstance(policy, Mapping):
        raise GuardError(
            f"classifier {classifier.name} does not say which policy it was trained for "
            "(training.constitution in classifier.yaml); train it with --constitution"
        )
    ours = {"name": record.constitution.name, "version": record.constitution.version}
    theirs = {key: str(policy.get(key)) for key in ours}
    if theirs != ours:
        raise GuardError(
            f"classifier {classifier.name} was trained for the policy {theirs['name']} (version "
            f"{theirs['version']}), the probe for {ours['name']} (version {ours['version']}); train both on "
            "one constitution"
        )
    # Older classifiers do not record the hash. For them name and version must do.
    if policy.get("sha256", hash_constitution(constitution)) != hash_constitution(constitution):
        raise GuardError(
            f"classifier {classifier.name} was trained for another text of the policy "
            f"{ours['name']} (version {ours['version']}) than the probe; train both on one constitution"
        )
    if record.classifier is not None and record.classifier.sha256 != classifier.sha256:
        raise GuardError(
            f"classifier {classifier.name} is not the one that the guard was made with "
            f"(SHA-256 {classifier.sha256[:12]}…); restore the bundle"
        )


def check_text(record: GuardRecord, text: TextBaseline) -> None:
    """Check that a text baseline is the one that the guard was made with. Raises GuardError if it is not."""
    if record.text is not None and record.text.sha256 != text.sha256:
        raise GuardError(
            f"the text baseline is not the one that the guard was made with (SHA-256 {text.sha256[:12]}…); "
            "restore the bundle"
        )


def check_judge(record: GuardRecord, judge: "Judge") -> None:
    """Check that a judge is the one that the guard was made with, and made for its policy.

    Raises:
        GuardError: it has changed, or names another policy.
    """
    file = judge.file
    if record.judge is not None and record.judge.sha256 != judge.sha256:
        raise GuardError(
            f"judge {file.shown} is not the one that the guard was calibrated with (SHA-256 "
            f"{judge.sha256[:12]}…, expected {record.judge.sha256[:12]}…): its folder, its words or this "
            "version's layout have changed; restore them, or calibrate with the judge again"
        )
    if file.policy is None:
        return
    ours = (record.constitution.name, record.constitution.version)
    theirs = (file.policy.name, str(file.policy.version))
    if theirs != ours:
        raise GuardError(
            f"judge {file.shown} is for the policy {theirs[0]} (version {theirs[1]}), the probe for "
            f"{ours[0]} (version {ours[1]}); take a judge of the same policy"
        )


def verify_backbone(record: BackboneRecord, backbone: Backbone) -> None:
    """Check that a guard was made for this backbone, in any precision.

    Raises:
        BackboneMismatch: it was made for another backbone, or the logits of 32 fixed tokens differ by more
            than the two precisions explain.
    """
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
    pairs = zip(record.fingerprint, identity.fingerprint, strict=False)
    worst = float(np.max([abs(a - b) for a, b in pairs] or [0.0]))  # NaN if any is
    allowed = fingerprint_tolerance(record, identity.dtype)
    if len(record.fingerprint) != len(identity.fingerprint) or not worst <= allowed:
        raise BackboneMismatch(
            f"the backbone's files are right, but its logits differ by {worst:.3f} from the logits that the "
            f"guard was made with (at most {allowed:.3f} is allowed); this installation computes something "
            "else; run: lockgate doctor"
        )


def fingerprint_tolerance(record: BackboneRecord, dtype: str) -> float:
    """Return how far the logits of the fixed tokens may be from the record's in this precision."""
    if record.dtype == dtype == "float32" or not record.fingerprint:
        return _FINGERPRINT_TOLERANCE
    rounding = max(torch.finfo(getattr(torch, name)).eps / 2 for name in (record.dtype, dtype))
    return max(_FINGERPRINT_TOLERANCE, _ROUNDINGS * rounding * float(np.std(record.fingerprint)))


def precision_shift(record: BackboneRecord, backbone: Backbone) -> str | None:
    """Say how a backbone computes otherwise than when the guard's threshold was set; None if it does not."""
    made, now = f"{record.dtype} on {record.device}", str(backbone.placement)
    return None if made == now else f"its threshold was set in {made}, and it computes in {now}"
