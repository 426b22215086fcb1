"""What the engine tells the HTTP side about a request."""

from dataclasses import dataclass

from lockgate.gateway._decisions import DecisionKind


@dataclass(frozen=True, slots=True)
class ReleasedToken:
    """A token that was scored and cleared. `score` is the smoothed logit, None where no guard is at work."""

    text: str
    score: float | None
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Released:
    """Text that may leave, and the tokens that it is made of. `text` may be empty while tokens are not."""

    choice: int
    text: str
    tokens: tuple[ReleasedToken, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice. Its decision line has been handed to the log before this event exists.

    `refusal` is set exactly when the answer was stopped, `reason` is then `content_filter`.
    """

    choice: int
    reason: str
    decision: DecisionKind
    enforced: bool
    refusal: str | None
    category: str | None
    completion_tokens: int
    max_prompt: float | None
    max_answer: float | None
    threshold: float | None


Event = Released | Finished
