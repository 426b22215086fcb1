"""Records of the decision log: that an exchange has begun, and what was decided about it. No text."""

import math
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

DecisionKind = Literal["pass", "halt", "block", "error", "cancelled"]
Fault = Literal["scoring", "second stage", "log"]


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """The largest scores of one exchange.

    Attributes:
        max_prompt, max_answer: largest smoothed logit in the prompt and in the answer, on the scale of
            `threshold`. None if nothing in that region was scored.
        threshold: the guard's threshold; None without a guard. If it rises with the answer, that of the
            newest token.
        mixed: largest mixed score of a guard with two stages. None if the second stage was not asked or gave
            no number.
    """

    max_prompt: float | None
    max_answer: float | None
    threshold: float | None
    mixed: float | None = None


class ScoresRead(Protocol):
    """Scores as any reader of a log has them."""

    @property
    def max_prompt(self) -> float | None: ...

    @property
    def max_answer(self) -> float | None: ...

    @property
    def mixed(self) -> float | None: ...


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The begin of a request. Without it, a crash would leave no trace of the exchanges that it cut off.

    Attributes:
        choices: how many decisions must follow.
        tenant, key: as in the decisions that follow.
    """

    id: str
    time: str
    mode: str
    guard: str | None
    choices: int
    prompt_tokens: int
    tenant: str | None = None
    key: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one exchange, which is one choice of one request.

    Attributes:
        decision: `halt` (the answer was flagged), `block` (the prompt was flagged), `error` (the exchange
            could not be checked), `cancelled` (the client left) or `pass`.
        enforced: whether the decision changed the answer. Shadow mode only records a `halt`.
        token_index: the token that was flagged, counted from 0 in the last user turn (`block`) or in the
            answer (`halt`).
        stage: the last stage that was asked; None without a guard.
        verdicts: how often the second stage was asked.
        reason: what failed, if `decision` is `error`.
        fault: where it failed: `scoring` means stage 1 or the engine, `second stage` means stage 2, `log`
            means that records could not be written.
        unguarded: whether the answer left without a check, because the guard failed and its route fails open.
        lowered: by how much the conversation's past had lowered the threshold that flags.
        measure: hash of what gives the scores. While it stays the same, they may be compared with other
            thresholds (`lockgate replay`).
        tenant: name of the client's tenant; "" for a key of the config; None if the server asks for no key.
        key: public id of the client's key, which is no secret.
    """

    id: str
    choice: int
    time: str
    mode: str
    guard: str | None
    decision: DecisionKind
    enforced: bool
    finish_reason: str | None
    category: str | None
    token_index: int | None
    scores: Scores
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    first_token_ms: float | None
    total_ms: float
    reason: str | None = None
    fault: Fault | None = None
    stage: int | None = None
    verdicts: int = 0
    measure: str | None = None
    unguarded: bool = False
    lowered: float = 0.0
    tenant: str | None = None
    key: str | None = None

    @property
    def flagged(self) -> bool:
        """Whether the guard flagged the exchange, also if that was only noted."""
        return self.decision in ("halt", "block")


def deciding_score(
    scores: ScoresRead, *, two_stages: bool, flag_on: Literal["answer", "both"], flagged: bool
) -> float:
    """Return the recorded score that decides, for comparison with other thresholds.

    Args:
        two_stages: whether the guard that recorded it has two stages. The mixed score then decides.
        flag_on: what a guard with one stage flags.
        flagged: whether the guard flagged the exchange.

    Returns:
        Infinity if there is no number although the guard flagged: a failed reading flags at any threshold.
        Minus infinity if nothing was read.
    """
    if two_stages:
        found = [scores.mixed]
    elif flag_on == "both":
        found = [scores.max_prompt, scores.max_answer]
    else:
        found = [scores.max_answer]
    known = [score for score in found if score is not None]
    if known:
        return max(known)
    return math.inf if flagged else -math.inf


class GuardName(msgspec.Struct, frozen=True, kw_only=True):
    """A guard, as the log names it.

    Attributes:
        sha256: hash of its bundle, which records of exchanges name too.
        budget: share of benign exchanges that it may flag; None if it is uncalibrated.
        threshold: what the score that decides is compared with.
    """

    sha256: str
    name: str
    budget: float | None
    threshold: float | None


class GuardChange(msgspec.Struct, frozen=True, kw_only=True):
    """Another guard has taken over in a running server.

    Attributes:
        by: who wanted it, such as `config` or the name of a reviewer's key.
        guard: name in the config of the guard that has changed. Records of servers with one guard lack it.
    """

    id: str
    time: str
    by: str
    before: GuardName
    after: GuardName
    guard: str = "default"


def timestamp() -> str:
    """Return the time now in UTC, such as 2026-01-31T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
