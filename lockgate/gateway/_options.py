"""What an engine is told and what it says of itself: its limits, its faults, its refusals."""

from dataclasses import dataclass, field
from typing import Literal

from lockgate.errors import ConfigError, LockgateError

Mode = Literal["enforce", "shadow", "off"]
MODES: tuple[Mode, ...] = ("enforce", "shadow", "off")


class QueueFull(LockgateError):
    """Too many requests are waiting. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after = retry_after


class EngineDown(LockgateError):
    """The engine takes no more requests: it is stopping, or a step has not come back."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        max_streams: choices that are generated at the same time.
        max_queue: requests that may wait beyond those.
        kv_tokens: key-value tokens for all open streams; None chooses.
        step_timeout: seconds after which a step counts as failed.
        verdict_timeout: seconds without progress of the second stage after which a stream that waits for its
            verdict is halted. However it comes forward, a stream waits no longer than that and as much again
            for every 1,024 tokens that are still to be read.
        verdict_kv_tokens: key-value tokens of the second stage; None chooses.
    """

    mode: Mode = "enforce"
    max_streams: int = 8
    max_queue: int = 32
    kv_tokens: int | None = None
    step_timeout: float = 120.0
    verdict_timeout: float = 30.0
    verdict_kv_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode: expected one of {', '.join(MODES)}")
        if self.max_streams < 1 or self.max_queue < 0 or not self.step_timeout > 0:
            raise ConfigError("expected max_streams >= 1, max_queue >= 0 and a step time-out above 0")
        if not self.verdict_timeout > 0:
            raise ConfigError("expected a verdict time-out above 0")


@dataclass(slots=True)
class Faults:
    """What has gone wrong since the start. `open` holds what is wrong now.

    `total` counts answers that could not be checked; of them, `second_stage` for want of a verdict.
    """

    total: int = 0
    second_stage: int = 0
    last: str | None = None
    open: dict[str, str] = field(default_factory=dict)
