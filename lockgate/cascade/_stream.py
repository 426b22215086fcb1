"""The state machine of one stream under stage 1: it reads the logits of tokens in order and may flag.

It needs no model and no I/O. The probe's logit is smoothed by an exponential moving average, which replaces
the training window in serving (CC++ section 5). A bias correction keeps the start of a stream from being
pulled towards zero.

A stream has three regions. Earlier turns feed the average and never flag. The last user turn and the answer
each have a running maximum, and the thresholds say which of the two may flag.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import ConfigError

FlagOn = Literal["answer", "both"]


@dataclass(frozen=True, slots=True)
class Block:
    """A closed block.

    Attributes:
        number: number of the block; block 0 is everything before the answer.
        end: answer tokens read at its end.
        probe: largest smoothed logit of its tokens, not corrected for length. None if none of them counts
            (see `CascadeState`). Infinite if the probe gave no number.
    """

    number: int
    end: int
    probe: float | None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a smoothed logit ends a stream.

    Attributes:
        flag: a smoothed logit flags strictly above `flag - tolerance`.
        tolerance: numeric uncertainty of a logit. A score within it below the threshold counts as above.
        min_tokens: nothing flags before this many scored tokens, or the stream's end if that comes first.
        flag_on: `both` if the last user turn may flag too, `answer` if only the answer may.
    """

    flag: float
    tolerance: float = 0.0
    min_tokens: int = 16
    flag_on: FlagOn = "both"

    def __post_init__(self) -> None:
        if math.isnan(self.flag) or not self.tolerance >= 0 or self.min_tokens < 1:
            raise ConfigError("thresholds: expected a number to flag at, tolerance >= 0 and min_tokens >= 1")
        if self.flag_on not in ("answer", "both"):
            raise ConfigError("thresholds: flag_on must be 'answer' or 'both'")

    def crossed(self, score: float) -> bool:
        """Return whether `score` flags. NaN flags too: a broken reading must never pass."""
        return not score <= self.flag - self.tolerance


@dataclass(frozen=True, slots=True)
class Regions:
    """Token positions of an exchange: where scoring, the last user turn and the answer begin."""

    start: int
    prompt_start: int
    answer_start: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a stream after its newest token.

    Attributes:
        score: smoothed logit at the newest token.
        flagged: whether the stream must be halted. Once True, it stays True.
        category: harmful category whose head is highest at the flag; None without a flag or such heads.
        token_index: position, within its region, of the token that flagged, otherwise of the newest token.
        threshold: with one stage the flag threshold. With two stages the escalation threshold of the newest
            token's own block: `Cascade.escalate` and the block's `Cascade.rise`.
    """

    score: float
    flagged: bool
    category: str | None
    token_index: int
    threshold: float


class StreamState:
    """The state of one stream under stage 1: moving average, running maxima and flag. O(1) memory.

    As an `ExchangeState` it has one stage, the probe: no verdict is ever due, and there is always room.

    Attributes:
        room, due, closed, suspicious, verdicts, classifier_max, stage: constants, since there are no blocks.

    Args:
        thresholds: when to flag.
        gamma: weight of the newest logit in the moving average.
        regions: where the regions of this exchange begin.
        category_ids: harmful categories of the logits' other columns, in order.
        correct: what the thresholds compare instead of a smoothed logit: it takes the logit and the number of
            answer tokens up to its token. None compares the logit itself.
    """

    room: int = sys.maxsize
    due: Block | None = None
    closed: Block | None = None
    suspicious: bool = False
    verdicts: int = 0
    classifier_max: float = math.nan
    stage: int = 1

    def __init__(
        self,
        thresholds: Thresholds,
        gamma: float,
        regions: Regions,
        category_ids: tuple[str, ...] = (),
        *,
        correct: Callable[[float, int], float] | None = None,
    ) -> None:
        if not 0 < gamma <= 1:
            raise ConfigError("gamma: expected 0 < gamma <= 1")
        self.thresholds = thresholds
        self.position = regions.start
        self.scored = 0
        self.score = math.nan
        self.flag_token: int | None = None
        self.category: str | None = None
        self.regions = regions
        self._keep = 1.0 - gamma
        self._gamma = gamma
        self._averages: NDArray[np.float64] = np.zeros(1 + len(category_ids))
        self._weight = 0.0
        self._categories = category_ids
        self._correct = correct
        self._max_prompt = -math.inf
        self._max_answer = -math.inf
        self._max_compared = -math.inf
        self._last_prompt = math.nan
        self._released = 0

    def consume(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Read the next tokens.

        Args:
            logits: the probe's logits `[tokens, 1 + categories]`.

        Returns:
            The smoothed logits of the first column `[tokens]`.
        """
        smoothed = np.empty(len(logits))
        for index, row in enumerate(np.asarray(logits, dtype=np.float64)):
            smoothed[index] = self._advance(row)
        return smoothed

    def judge(self, logit: float | None) -> None:
        """Raise ConfigError, because one stage takes no verdicts."""
        raise ConfigError("stream: no verdict is due")

    def finish(self) -> Verdict:
        """End the stream. One shorter than `min_tokens` is judged now, at its last token."""
        if 0 < self.scored < self.thresholds.min_tokens:
            self._judge(self.position - 1, self.score)
        if not self.flagged:
            self._released = self.answered
        return self.verdict

    @property
    def flagged(self) -> bool:
        """Whether the stream must be halted."""
        return self.flag_token is not None

    @property
    def armed(self) -> bool:
        """Whether at least `min_tokens` tokens are scored, so that tokens may flag."""
        return self.scored >= self.thresholds.min_tokens

    @property
    def answered(self) -> int:
        """Answer tokens read."""
        return max(0, self.position - self.regions.answer_start)

    @property
    def released(self) -> int:
        """Answer tokens that may leave now. A flag stops this count."""
        return self._released

    @property
    def top_category(self) -> str | None:
        """The category whose head is highest now; None without category heads."""
        return self._categories[int(np.argmax(self._averages[1:]))] if self._categories else None

    @property
    def max_prompt(self) -> float:
        """Largest smoothed logit in the last user turn; NaN if it has no scored token."""
        return self._last_prompt if self._max_prompt == -math.inf else self._max_prompt

    @property
    def max_answer(self) -> float:
        """Largest smoothed logit in the answer; NaN if there is none yet."""
        return math.nan if self._max_answer == -math.inf else self._max_answer

    @property
    def max_score(self) -> float:
        """Largest smoothed logit in the regions that may flag; minus infinity if there is none."""
        if self.thresholds.flag_on == "answer":
            return self._max_answer
        return max(self._max_prompt, self._max_answer)

    @property
    def mixed_max(self) -> float:
        """Largest score that was compared: `max_score`, unless readings are corrected."""
        return self._max_compared

    @property
    def ranked(self) -> float:
        """`mixed_max`. If nothing could flag (a prompt alone), the prompt's maximum instead."""
        return self.max_prompt if self.mixed_max == -math.inf else self.mixed_max

    @property
    def verdict(self) -> Verdict:
        """The state after the newest token."""
        index = self.flag_token if self.flag_token is not None else self.place(self.position - 1)
        return Verdict(self.score, self.flagged, self.category, index, self.thresholds.flag)

    def place(self, position: int) -> int:
        """Return a token's number within its region: the answer, the last user turn or the earlier turns."""
        start = self.regions.answer_start
        if position < start:
            start = self.regions.prompt_start if position >= self.regions.prompt_start else self.regions.start
        return position - start

    def _advance(self, row: NDArray[np.float64]) -> float:
        self._averages = self._keep * self._averages + self._gamma * row
        self._weight = self._keep * self._weight + self._gamma
        self.score = float(self._averages[0]) / self._weight
        self.scored += 1
        if self.regions.prompt_start <= self.position < self.regions.answer_start:
            self._last_prompt = self.score
        if self.armed:
            self._judge(self.position, self.score)
        self.position += 1
        if self.armed and not self.flagged:
            self._released = self.answered
        return self.score

    def _judge(self, position: int, score: float) -> None:
        if position < self.regions.prompt_start:
            return
        in_answer = position >= self.regions.answer_start
        # NaN counts as the highest score.
        value = math.inf if math.isnan(score) else score
        if in_answer:
            self._max_answer = max(self._max_answer, value)
        else:
            self._max_prompt = max(self._max_prompt, value)
        if not (in_answer or self.thresholds.flag_on == "both"):
            return
        if self._correct is not None:
            score = self._correct(score, max(0, position - self.regions.answer_start + 1))
            value = math.inf if math.isnan(score) else score
        self._max_compared = max(self._max_compared, value)
        if self.flag_token is None and self.thresholds.crossed(score):
            self.flag_token = self.place(position)
            self.category = self.top_category
