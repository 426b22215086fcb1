"""The engine's limits, its record of faults, and the errors with which it refuses jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lockgate.decisions import Decision
from lockgate.errors import ConfigError, LockgateError
from lockgate.gateway._breaker import BreakerOptions

Mode = Literal["enforce", "shadow", "off"]
Release = Literal["token", "block"]
# When a client should try again after the server has stopped or its model hangs.
RESTART_SECONDS = 10
# A step reads no more tokens of one answer, so a larger hold would change nothing.
MOST_HELD_TOKENS = 64
MOST_HELD_SECONDS = 60.0
MODES: tuple[Mode, ...] = ("enforce", "shadow", "off")
RELEASES: tuple[Release, ...] = ("token", "block")


class QueueFull(LockgateError):
    """Too many requests are waiting. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after = retry_after


class EngineDown(LockgateError):
    """The engine takes no requests, because it is stopping or a step hangs."""


def default_kv_tokens(context_length: int, max_streams: int) -> int:
    """Return the key-value tokens of an engine whose options name none."""
    # A client holds at most three quarters, so one full context leaves room for others.
    return max(2 * context_length, 2048 * max_streams)


class LogDown(EngineDown):
    """The engine takes no requests, because the decision log can't be written."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        mode: `enforce` stops flagged answers, `shadow` only records flags, `off` works without a guard.
        max_streams: choices that are generated at the same time. As many again may be open and take turns.
        max_queue: requests that may wait in addition.
        kv_tokens: key-value tokens for all open streams. None takes two full contexts, or 2,048 for each
            stream if that is more.
        step_timeout: seconds after which a step counts as failed.
        verdict_timeout: seconds without progress of the second stage after which a waiting stream is halted.
            Even with progress, a stream waits at most this long, plus as long again for every 1,024 tokens
            that the second stage must read.
        verdict_breaker: when the second stage counts as down, and for how long.
        verdict_kv_tokens: key-value tokens of the second stage. None takes as many as `kv_tokens`.
        queue_timeout: seconds that a request may wait before it is opened. Then it gets a 503.
        promotion_timeout: seconds that open answers have to end when another guard takes over. Those that are
            left get a 503. Requests wait meanwhile.
        release: `token` lets a token leave once it is cleared. `block` lets every answer leave in blocks
            of the cascade, so that pieces don't show which streams were held. A guard of one stage has none.
    """

    mode: Mode = "enforce"
    max_streams: int = 8
    max_queue: int = 32
    kv_tokens: int | None = None
    step_timeout: float = 120.0
    verdict_timeout: float = 30.0
    verdict_kv_tokens: int | None = None
    verdict_breaker: BreakerOptions = field(default_factory=BreakerOptions)
    queue_timeout: float = 120.0
    promotion_timeout: float = 30.0
    release: Release = "token"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode: expected one of {', '.join(MODES)}")
        if self.release not in RELEASES:
            raise ConfigError(f"release: expected one of {', '.join(RELEASES)}")
        if self.max_streams < 1 or self.max_queue < 0 or not self.step_timeout > 0:
            raise ConfigError("expected max_streams >= 1, max_queue >= 0 and a step time-out above 0")
        if not (self.verdict_timeout > 0 and self.queue_timeout > 0 and self.promotion_timeout > 0):
            raise ConfigError("expected time-outs of verdicts, the queue and promotions above 0")


@dataclass(frozen=True, slots=True)
class Hold:
    """How much of an upstream's answer is read, and so released, in one step.

    A flag keeps back the whole step in which it falls. Text waits longer for larger steps.

    Attributes:
        tokens: a step reads at least so many new tokens of an answer, unless the answer has ended.
        seconds: text waits at most so long for further tokens of its step. With one token it never waits.
    """

    tokens: int = 1
    seconds: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_HELD_TOKENS or not 0 < self.seconds <= MOST_HELD_SECONDS:
            raise ConfigError(
                f"hold: expected 1 to {MOST_HELD_TOKENS} tokens, and more than 0 and at most "
                f"{1000 * MOST_HELD_SECONDS:.0f} ms"
            )


NO_HOLD = Hold()


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Limits of the checks on text that clients send.

    Attributes:
        wait_timeout: seconds that a call may wait for the guard. Then it gets a 503, and its check ends.
        idle_timeout: seconds without a call after which an open check ends.
        open_per_client: checks that a client may have open.
        moderation_names: names that `/v1/moderations` gives to categories of the policy instead of their ids.
    """

    wait_timeout: float = 60.0
    idle_timeout: float = 60.0
    open_per_client: int = 6
    moderation_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.wait_timeout > 0 and self.idle_timeout > 0) or self.open_per_client < 1:
            raise ConfigError("checks: expected time-outs above 0 and at least one open check per client")


@dataclass(slots=True)
class Faults:
    """Faults since the start.

    Attributes:
        total: answers that could not be checked.
        second_stage: those of them that lacked a verdict of the second stage.
        unguarded: those of them that left without a check, because their route fails open.
        last: the newest fault.
        open: what is wrong now, by place.
    """

    total: int = 0
    second_stage: int = 0
    unguarded: int = 0
    last: str | None = None
    open: dict[str, str] = field(default_factory=dict)

    def note(self, record: Decision) -> None:
        """Note the fault of an exchange that is over, or that it had none."""
        if record.decision != "error":
            self.open.pop("scoring", None)
            return
        self.total += 1
        self.unguarded += record.unguarded
        self.last = record.reason or "the guard failed"
        if record.fault == "second stage":
            # Its own verdicts say what is wrong now (see `VerdictDesk`).
            self.second_stage += 1
        elif record.fault != "log":  # the log says itself what is wrong
            self.open["scoring"] = self.last
