"""Guards as the gateway sees them: for the engine, for clients, for the log, and one in place of another."""

import secrets
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeTap
from lockgate.decisions import DecisionLog, GuardChange, GuardName, timestamp
from lockgate.durable import file_sha256
from lockgate.errors import ExchangeError, GuardError, PrecisionWarning
from lockgate.gateway._conversations import Conversations
from lockgate.gateway._engine import Engine
from lockgate.gateway._guards import DEFAULT
from lockgate.gateway._handover import PromotionError, unless
from lockgate.gateway._options import CheckOptions, EngineOptions
from lockgate.gateway._scoring import Scoring
from lockgate.guards import Guard, bundle_folder, finite_or_none


class _Options(Protocol):
    @property
    def engine(self) -> EngineOptions: ...

    @property
    def conversations(self) -> Conversations | None: ...

    @property
    def checks(self) -> CheckOptions: ...


class Served(Protocol):
    """What a change of guard needs of the gateway."""

    about_guard: dict[str, Any] | None
    guard_folder: Path | None
    guard_name: str
    whole: Backbone
    decisions: DecisionLog
    engine: Engine

    @property
    def options(self) -> _Options: ...


def bundle_hash(source: str | Path) -> str:
    """Return the hash by which records name the guard in a folder. Raises GuardError: there is none."""
    folder = _folder(source)
    try:
        return file_sha256(folder / "guard.yaml")
    except ExchangeError:
        raise GuardError(f"{folder}: holds no guard; expected a folder with guard.yaml") from None


def _folder(source: str | Path) -> Path:
    """Return the folder of a bundle. A link that names another one meanwhile must not mix two bundles."""
    return bundle_folder(source).resolve()


def promote(gateway: Served, guard: Guard | str | Path, by: str) -> GuardChange:
    """See `Gateway.promote`."""
    if gateway.options.engine.mode == "off":
        raise PromotionError("mode off has no guard; start the server again in another mode")
    if gateway.decisions.failure is not None:
        raise PromotionError("the change could not be recorded: the decision log can't be written")
    if isinstance(guard, Guard):
        made, name = guard, None
    else:
        folder = _folder(guard)
        name = folder.name
        made = unless(gateway.engine.hindered, partial(_load, folder, gateway.whole))
    scoring = scoring_of(made)
    about = describe_guard(made, name)
    _check(gateway, made, about)
    before = _name(gateway.about_guard, gateway.engine.scoring or scoring)
    change = GuardChange(
        id=f"guard-{secrets.token_hex(8)}",
        time=timestamp(),
        by=by,
        guard=gateway.guard_name,
        before=before,
        after=_name(about, scoring),
    )

    def changed() -> None:
        gateway.about_guard, gateway.guard_folder = about, made.path
        gateway.decisions.note_guard(change)

    gateway.engine.exchange(scoring, gateway.options.engine.promotion_timeout, changed)
    return change


def _load(folder: Path, backbone: Backbone) -> Guard:
    before = bundle_hash(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)  # the description says it
        made = Guard.load(folder, backbone=backbone)
    if made.sha256 != before:
        raise PromotionError(f"{folder}: has changed while it was read; try again")
    return made


def _check(gateway: Served, guard: Guard, about: dict[str, Any]) -> None:
    """Check that the server can go on with a guard. Raises PromotionError."""
    if not guard.sha256:
        raise PromotionError("the guard has no bundle that records could name; save it first")
    if guard.backbone is not gateway.whole:
        raise PromotionError("the guard was not loaded onto this server's backbone; give its folder")
    conversations = gateway.options.conversations
    if conversations is not None and conversations.made_for != (
        guard.record.measure,
        guard.record.decides.flag,
    ):
        raise PromotionError(
            "the memory of conversations was made for another guard or threshold; run `lockgate memory` for "
            "the new guard, and start the server again with both"
        )
    if gateway.guard_name != DEFAULT:
        return  # names of categories are those of the default guard
    known = {*about["constitution"]["categories"], *guard.head.category_ids}
    for category in gateway.options.checks.moderation_names:
        if category not in known:
            raise PromotionError(f"--moderation-name {category}: the new guard has no such category")


def _name(about: dict[str, Any] | None, scoring: Scoring) -> GuardName:
    told = about or {}
    return GuardName(
        sha256=scoring.guard,
        name=str(told.get("name") or ""),
        budget=told.get("budget"),
        threshold=finite_or_none(scoring.stages.decides),
    )


def scoring_of(guard: Guard) -> Scoring:
    """Make the engine's view of a guard. It has the stages and the kind of tap that score files too."""
    return Scoring(
        stages=guard.stages,
        tap=ProbeTap([guard.head], guard.backbone.hidden_size, guard.backbone.device),
        refusal=guard.constitution.refusal_message,
        guard=guard.sha256,
        measure=None if guard.path is None else guard.record.measure,
    )


def describe_guard(guard: Guard, name: str | None = None) -> dict[str, Any]:
    """Describe a guard for clients: names, hash, and the budget of its threshold if it is calibrated.

    In another precision than that of the calibration it counts as uncalibrated.
    """
    # A budget that was shown in another precision is not claimed.
    calibration = None if guard.precision_shift is not None else guard.calibration
    return {
        "name": name or guard.record.name,
        "sha256": guard.sha256,
        "constitution": {
            "name": guard.record.constitution.name,
            "version": guard.record.constitution.version,
            "categories": {category.id: category.title for category in guard.constitution.harmful},
        },
        "stages": guard.stages.count,
        "calibrated": calibration is not None,
        "budget": None if calibration is None else calibration.budget,
        "uncalibrated_because": _why_uncalibrated(guard),
        "precision": str(guard.backbone.placement),
    }


def _why_uncalibrated(guard: Guard) -> str | None:
    if guard.calibration is not None:
        return guard.precision_shift
    provisional = guard.record.provisional
    return "the guard does not say" if provisional is None else provisional.reason
