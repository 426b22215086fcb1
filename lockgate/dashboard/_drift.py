"""The alarm of drift: it holds at any time, so looking often makes no false alarm more likely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from lockgate.calibration import Calibration, Interval
from lockgate.calibration.drift import Claim, Seen, observe, share_above
from lockgate.calibration.sequential import anytime_interval
from lockgate.dashboard._desk import Call
from lockgate.dashboard._guard import ServedGuard
from lockgate.dashboard._scores import score_of
from lockgate.decisions import Decision, Line
from lockgate.errors import MissingExtra

# Of a hundred guards whose traffic is like their calibration's, one may ever raise a false alarm.
FALSE_ALARMS = 0.01
# Of that, so much is for calibrations whose own sample was unusual.
_SAMPLES = 0.002
_FLAGGED = "flagged"


class _State(msgspec.Struct):
    """What the test of a guard has met. Exchanges are not kept, only counts of them.

    Attributes:
        seen: how far each chain of the log was read.
        first, last: when the first and the last exchange came that counts.
        shares: what each claim has met.
        since: when a claim was given up.
    """

    seen: dict[str, int] = {}
    first: str | None = None
    last: str | None = None
    shares: dict[str, Seen] = {}
    since: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Share:
    """A share of exchanges against what calibration lets expect.

    Attributes:
        quantile: of the calibration's scores; None for the share that was flagged.
        value: the score at the quantile, or the threshold.
        claim: what is claimed of the share.
        interval: of the share now. It holds at all times together, if the share has not changed.
        since: when the alarm came; None if it did not.
    """

    quantile: str | None
    value: float
    claim: Claim
    seen: Seen
    interval: Interval
    since: str | None


class _Asked(NamedTuple):
    """What is asked about a share: see `Share`."""

    quantile: str | None
    value: float
    claim: Claim

    def met(self, one: Decision, score: float) -> bool:
        """Whether an exchange counts for the share."""
        return one.flagged if self.quantile is None else score > self.value


@dataclass(frozen=True, slots=True)
class Drift:
    """What the test says now.

    Attributes:
        n: exchanges that count.
        more: whether the log has further records, which the next looks read.
    """

    n: int
    first: str | None
    last: str | None
    shares: tuple[Share, ...]
    more: bool

    @property
    def since(self) -> str | None:
        """When the first alarm came."""
        return min((share.since for share in self.shares if share.since is not None), default=None)


def follow_drift(call: Call, guard: ServedGuard | None) -> Drift | None:
    """Read what the log has got since the last look, and tell what the test of a guard says about it.

    One look reads a bounded number of records. What was met is kept in the operations database: all servers
    that share it go on with one test, and no purge or restart begins another.

    Returns:
        None if there is no guard, if it is not calibrated, or if its bounds can't be computed here.
    """
    calibration = None if guard is None else guard.calibration
    if guard is None or calibration is None:
        return None
    try:
        asked = _asked(guard, calibration)
    except MissingExtra:
        return None
    scope = "*" if call.scope is None else call.scope
    version, kept = call.desk.kept.state(guard.sha256, scope)
    state = _State() if kept is None else msgspec.json.decode(kept, type=_State)
    with call.desk.log() as log:
        part = log.onward(state.seen)
    if part.seen != state.seen:
        after = _after(state, [line for line in part.lines if call.sees(line.decision.tenant)], guard, asked)
        after.seen = part.seen
        if call.desk.kept.keep_state(guard.sha256, scope, version, msgspec.json.encode(after)):
            state = after
        else:  # another look was quicker
            state = msgspec.json.decode(call.desk.kept.state(guard.sha256, scope)[1] or b"{}", type=_State)
    return _told(state, asked, more=part.more)


def _asked(guard: ServedGuard, calibration: Calibration) -> dict[str, _Asked]:
    """Say what a calibration claims: each quantile's share, and the budget. Raises MissingExtra.

    Of an answer that was stopped nobody knows how far its score would have risen above the threshold. So only
    quantiles up to there count.
    """
    flag, budget = guard.record.decides.flag, calibration.budget
    known = {name: value for name, value in calibration.quantiles.items() if 0 < float(name) < 1}
    names = sorted((name for name, value in known.items() if value <= flag), key=float)
    alarm = (FALSE_ALARMS - _SAMPLES) / (len(names) + 1)
    asked = {}
    for name in names:
        lower, upper = share_above(calibration.n, float(name), _SAMPLES / len(names))
        asked[name] = _Asked(name, known[name], Claim(lower, upper, alarm, near=1.0 - float(name)))
    return {**asked, _FLAGGED: _Asked(None, flag, Claim(0.0, budget, alarm, near=budget))}


def _after(state: _State, lines: Sequence[Line], guard: ServedGuard, asked: Mapping[str, _Asked]) -> _State:
    """Return the state after further records of the log."""
    own = [line for line in lines if _counts(line.decision, guard)]
    if not own:
        return msgspec.structs.replace(state)
    shares, since = dict(state.shares), dict(state.since)
    scores = [score_of(line.decision, guard.record) for line in own]
    for name, about in asked.items():
        before = shares.get(name, Seen())
        hits = [about.met(line.decision, score) for line, score in zip(own, scores, strict=True)]
        shares[name] = after = observe(before, hits, about.claim)
        if after.left_at is not None and name not in since:
            since[name] = own[after.left_at - before.n - 1].at
    return _State(state.seen, state.first or own[0].at, own[-1].at, shares, since)


def _counts(one: Decision, guard: ServedGuard) -> bool:
    """Tell whether an exchange was checked to its end by the guard as it was calibrated.

    Of several answers to one request only the first counts: they are not independent of each other.
    """
    checked = one.decision in ("pass", "halt", "block") and not one.unguarded
    return checked and one.guard == guard.sha256 and one.choice == 0 and not one.lowered


def _told(state: _State, asked: Mapping[str, _Asked], *, more: bool) -> Drift:
    shares = []
    for name, about in asked.items():
        seen, claim = state.shares.get(name, Seen()), about.claim
        interval = anytime_interval(seen.hits, seen.n, claim.near, 1.0 - claim.alarm)
        shares.append(Share(*about, seen, interval, state.since.get(name)))
    return Drift(shares[-1].seen.n, state.first, state.last, tuple(shares), more)
