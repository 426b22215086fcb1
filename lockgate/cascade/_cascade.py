"""Two stages on one stream: when stage 2 is asked, which tokens are held, and how both scores are mixed.

Stage 1 is the probe's smoothed logit, read token by token. Stage 2 is the exchange classifier. It is asked at
the end of a block, and only while the stream is suspicious (CC++ sections 4 and 5). Blocks form a fixed grid
over the answer. The grid does not depend on how tokens arrive, so offline scoring and serving ask at the same
places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade._stream import Block, FlagOn, StreamState, Thresholds, Verdict
from lockgate.errors import ConfigError

# Answer tokens in the first doubling: a correction for length is small before them and grows evenly after.
_FIRST_DOUBLING = 64


@dataclass(frozen=True, slots=True)
class Cascade:
    """The rule by which two stages decide together. Both stages give logits.

    A mixed score is a weighted mean of the two stages' standardised logits. The probe's logit enters as a
    *corrected reading*: its smoothed logit less what `drift` allows in its block. Without a drift, that is
    the smoothed logit itself.

    Attributes:
        escalate: escalation threshold. A stream becomes suspicious at the first token whose corrected
            reading lies strictly above it.
        flag: final threshold. A mixed score flags strictly above `flag - tolerance`.
        weight: share of the probe in the mixed score, 0 to 1.
        probe_mean, probe_std, classifier_mean, classifier_std: scales that standardise the logits.
        stride: answer tokens in a block.
        calm_blocks: suspicion ends after this many blocks in a row without a token above `escalate`.
        tolerance: numeric uncertainty of a mixed score.
        drift: logits by which the probe's running maximum may grow each time the answer doubles. In a block
            that ends at `t` answer tokens, `drift` · log2(1 + `t` / 64) is taken off. See `rise`.
        delay: answer tokens that a suspicious stream keeps back after a verdict that lets it go on. Harm is
            seen some tokens after it begins, and what has left can't be taken back. Decisions don't change.
    """

    escalate: float
    flag: float
    weight: float
    probe_mean: float = 0.0
    probe_std: float = 1.0
    classifier_mean: float = 0.0
    classifier_std: float = 1.0
    stride: int = 8
    calm_blocks: int = 2
    tolerance: float = 0.0
    drift: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        scales = (self.probe_mean, self.probe_std, self.classifier_mean, self.classifier_std)
        if math.isnan(self.escalate) or math.isnan(self.flag) or not 0 <= self.tolerance < math.inf:
            raise ConfigError("cascade: expected numbers for escalate and flag, and tolerance >= 0")
        if not all(map(math.isfinite, scales)) or min(self.probe_std, self.classifier_std) <= 0:
            raise ConfigError("cascade: expected finite means and standard deviations above 0")
        if not 0 <= self.weight <= 1:
            raise ConfigError("cascade: weight must be a share from 0 to 1")
        if self.stride < 1 or self.calm_blocks < 1:
            raise ConfigError("cascade: expected stride and calm_blocks of at least 1")
        if not 0 <= self.drift < math.inf:
            raise ConfigError(f"cascade: drift is {self.drift}; expected a finite number of logits >= 0")
        if self.delay < 0:
            raise ConfigError(f"cascade: delay is {self.delay}; expected a number of tokens >= 0")

    def rise(self, number: int) -> float:
        """Return the logits that are taken off a reading in block `number`.

        They depend on where the block ends on the grid, also if the answer ends before. Block 0 gives 0.
        """
        return self.drift * math.log2(1 + number * self.stride / _FIRST_DOUBLING)

    def corrected(self, probe: float, number: int) -> float:
        """Return the corrected reading for a smoothed logit in block `number`."""
        return probe - self.rise(number)

    def corrected_blocks(self, probe: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return `corrected` for the readings of blocks 0, 1, ... along the last axis `[..., blocks]`."""
        corrected: NDArray[np.float64] = np.asarray(probe, np.float64) - _rises(self, probe.shape[-1])
        return corrected

    def block_of(self, answered: int) -> int:
        """Return the number of the block that holds the newest of `answered` answer tokens."""
        return -(-answered // self.stride)

    def mix(self, probe: float, classifier: float) -> float:
        """Compute the mixed score of a judged block. It is infinite if a stage gave no finite number.

        Args:
            probe: corrected reading of the block.
            classifier: verdict on the block.
        """
        if not (math.isfinite(probe) and math.isfinite(classifier)):
            return math.inf
        first = (probe - self.probe_mean) / self.probe_std
        second = (classifier - self.classifier_mean) / self.classifier_std
        return self.weight * first + (1.0 - self.weight) * second

    def crossed(self, mixed: float) -> bool:
        """Return whether a mixed score flags. A failed reading is infinite and flags at any threshold."""
        return mixed == math.inf or not mixed <= self.flag - self.tolerance


@lru_cache(maxsize=1024)
def _rises(cascade: Cascade, blocks: int) -> NDArray[np.float64]:
    return np.array([cascade.rise(number) for number in range(blocks)], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CascadeOutcome:
    """The result of `simulate` for one exchange.

    Attributes:
        mixed_max: largest mixed score of the judged blocks; minus infinity if none was judged.
        flagged: whether a block flags.
        flag_block: number of the first block that flags; None without a flag.
        judged_blocks: numbers of the judged blocks. They include blocks after a flag, where serving has
            halted.
        escalated: whether stage 2 was asked at all.
        first_judged: number of the first judged block; None if none was judged.
    """

    mixed_max: float
    flagged: bool
    flag_block: int | None
    judged_blocks: tuple[int, ...]
    escalated: bool
    first_judged: int | None


class _Suspicion:
    """Suspicion and verdicts of one stream, block by block. `CascadeState` and `simulate` share it."""

    def __init__(self, cascade: Cascade, flag_on: FlagOn) -> None:
        self.cascade = cascade
        self.active = False
        self.mixed_max = -math.inf
        self.classifier_max = -math.inf
        self.first_judged: int | None = None
        self.flag_block: int | None = None
        self.verdicts = 0
        self._first_judgeable = 0 if flag_on == "both" else 1
        self._quiet = 0

    def loud(self, probe: float, number: int) -> bool:
        return not self.cascade.corrected(probe, number) <= self.cascade.escalate

    def close(self, block: Block) -> bool:
        """Close a block. Return whether stage 2 must be asked about it."""
        if block.probe is not None and self.loud(block.probe, block.number):
            self.active, self._quiet = True, 0
        elif self.active:
            self._quiet += 1
        due = self.active and block.number >= self._first_judgeable
        # Tokens of the last quiet block were held too, so this block is judged too.
        self.active = self.active and self._quiet < self.cascade.calm_blocks
        return due

    def judge(self, block: Block, logit: float | None) -> bool:
        """Take the verdict on a block. Return whether the block flags."""
        verdict = math.inf if logit is None or not math.isfinite(logit) else logit
        probe = math.inf if block.probe is None else block.probe
        mixed = self.cascade.mix(self.cascade.corrected(probe, block.number), verdict)
        self.verdicts += 1
        self.mixed_max = max(self.mixed_max, mixed)
        self.classifier_max = max(self.classifier_max, verdict)
        self.first_judged = block.number if self.first_judged is None else self.first_judged
        flags = self.cascade.crossed(mixed)
        if flags and self.flag_block is None:
            self.flag_block = block.number
        return flags


class CascadeState:
    """The state of one stream under two stages: O(1) memory, no model, no I/O.

    Call `consume` with tokens up to the end of a block; `room` says how many tokens that takes. If a verdict
    is then `due`, call `judge` before the next tokens. A verdict of None has failed or came too late; it
    flags. Call `finish` at the end.

    `released` counts the answer tokens that may leave. While the stream is calm and `min_tokens` are scored,
    all tokens that were read may leave. While it is suspicious, no more tokens leave until the next verdict,
    and the newest `delay` tokens stay back then too. After a flag no more tokens leave at all.

    A token counts if it lies in the last user turn or the answer, and `min_tokens` are scored. Only a token
    that counts can make the stream suspicious. Earlier turns only feed the average. With `flag_on="both"` a
    suspicious prompt is judged before anything leaves. With `"answer"` the first block of the answer is
    judged instead.

    Every request has its own state. A regenerated answer starts again after the same prompt. An edited
    conversation is rendered and scored from its beginning. No suspicion or verdict passes from one request
    to the next.

    After a flag the state still takes tokens, so that offline maxima cover the whole exchange. A server stops
    at the flag.

    Args:
        cascade: how both stages decide.
        stream: the state of stage 1, with nothing read yet. Its own flag threshold must be infinite, because
            the probe alone never flags here.

    Raises:
        ConfigError: `stream` has begun, or could flag by itself.
    """

    def __init__(self, cascade: Cascade, stream: StreamState) -> None:
        if stream.scored or stream.thresholds.flag != math.inf:
            raise ConfigError("cascade: expected a stream at its start whose own threshold is infinite")
        self.cascade = cascade
        self.stream = stream
        self.thresholds: Thresholds = stream.thresholds
        self.flag_token: int | None = None
        self.category: str | None = None
        self.due: Block | None = None
        self.closed: Block | None = None
        self._course = _Suspicion(cascade, stream.thresholds.flag_on)
        self._number = 0
        self._probe: float | None = None
        self._released = 0
        self._finished = False
        if self.room == 0:
            self._close()

    @property
    def room(self) -> int:
        """Tokens up to the end of the current block."""
        if self._number == 0:
            return max(0, self.stream.regions.answer_start - self.stream.position)
        return self._number * self.cascade.stride - self.answered

    def consume(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Read the next tokens.

        Args:
            logits: the probe's logits `[tokens, 1 + categories]`.

        Returns:
            The smoothed logits of the first column `[tokens]`.

        Raises:
            ConfigError: a verdict is due, or there are more tokens than `room`.
        """
        if self.due is not None:
            raise ConfigError("cascade: a verdict is due; judge it before more tokens are read")
        if len(logits) > self.room:
            raise ConfigError(f"cascade: {len(logits)} tokens, the block has room for {self.room}")
        smoothed = np.empty(len(logits))
        for index in range(len(logits)):
            smoothed[index] = self.stream.consume(logits[index : index + 1])[0]
            self._take(self.stream.position - 1, armed=self.stream.armed)
        if len(logits) and self.room == 0:
            self._close()
        return smoothed

    def judge(self, logit: float | None) -> None:
        """Take stage 2's verdict on the block that is `due`.

        None or a number that is not finite means that stage 2 failed; the block then flags.

        Raises:
            ConfigError: no verdict is due.
        """
        if self.due is None:
            raise ConfigError("cascade: no verdict is due")
        if self._course.judge(self.due, logit) and self.flag_token is None:
            self.flag_token = self.stream.place(self.stream.position - 1)
            self.category = self.stream.top_category
        self.due = None
        if not self.flagged:
            kept = self.cascade.delay if self._course.active and not self._finished else 0
            self._released = max(self._released, self.answered - kept)

    def finish(self) -> Verdict:
        """End the stream and close its last block. If a verdict is `due` then, judge it and finish again."""
        if not self._finished:
            self._finished = True
            self._close_last()
        if self.due is None and not self.flagged:
            self._released = self.answered
        return self.verdict

    @property
    def flagged(self) -> bool:
        """Whether the stream must be halted."""
        return self.flag_token is not None

    @property
    def suspicious(self) -> bool:
        """Whether tokens are held until the next verdict."""
        return self._course.active or self.due is not None

    @property
    def released(self) -> int:
        """Answer tokens that may leave now."""
        return self._released

    @property
    def answered(self) -> int:
        """Answer tokens read."""
        return self.stream.answered

    @property
    def scored(self) -> int:
        """Tokens that stage 1 has scored."""
        return self.stream.scored

    @property
    def max_prompt(self) -> float:
        """See `StreamState.max_prompt`."""
        return self.stream.max_prompt

    @property
    def max_answer(self) -> float:
        """See `StreamState.max_answer`."""
        return self.stream.max_answer

    @property
    def max_score(self) -> float:
        """See `StreamState.max_score`: the largest score of stage 1 alone."""
        return self.stream.max_score

    @property
    def mixed_max(self) -> float:
        """Largest mixed score so far; minus infinity while no block was judged."""
        return self._course.mixed_max

    @property
    def classifier_max(self) -> float:
        """Largest verdict so far; infinite after a failed one, NaN before the first."""
        return self._course.classifier_max if self._course.verdicts else math.nan

    @property
    def verdicts(self) -> int:
        """Blocks judged."""
        return self._course.verdicts

    @property
    def ranked(self) -> float:
        """See `ExchangeState.ranked`. It is minus infinity if the exchange was never escalated."""
        return self.mixed_max

    @property
    def stage(self) -> int:
        """2 once stage 2 was asked, otherwise 1."""
        return 2 if self.verdicts else 1

    @property
    def verdict(self) -> Verdict:
        """The state after the newest token. Its `threshold` is the escalation threshold of its block."""
        place = self.stream.place(self.stream.position - 1)
        index = place if self.flag_token is None else self.flag_token
        threshold = self.cascade.escalate + self.cascade.rise(self.cascade.block_of(self.answered))
        return Verdict(self.stream.score, self.flagged, self.category, index, threshold)

    def _take(self, position: int, *, armed: bool) -> None:
        if armed and position >= self.stream.regions.prompt_start:
            # A score that is not finite counts as the highest.
            value = self.stream.score if math.isfinite(self.stream.score) else math.inf
            self._probe = value if self._probe is None else max(self._probe, value)
            self._course.active = self._course.active or self._course.loud(value, self._number)
        if armed and not self._course.active and not self.flagged:
            self._released = self.answered

    def _close_last(self) -> None:
        short = 0 < self.stream.scored < self.thresholds.min_tokens
        self.stream.finish()
        still_open = self._number == 0 or self.answered > (self._number - 1) * self.cascade.stride
        if short:
            if not still_open:
                # Its last block was closed before the stream's end was known. It is closed again.
                self._number -= 1
            self._take(self.stream.position - 1, armed=True)
        if still_open or short:
            self._close()

    def _close(self) -> None:
        block = Block(self._number, self.answered, self._probe)
        self.closed = block
        self.due = block if self._course.close(block) else None
        self._number += 1
        self._probe = None


def simulate(
    probe: Sequence[float] | NDArray[np.floating],
    classifier: Sequence[float] | NDArray[np.floating],
    cascade: Cascade,
    *,
    flag_on: FlagOn = "both",
) -> CascadeOutcome:
    """Compute what a cascade would do with one exchange, from its block trace.

    A trace holds smoothed logits as they are. The correction for length is the cascade's, so one trace serves
    every `drift`.

    Args:
        probe: largest smoothed logit of blocks 0, 1, ... `[blocks]`; NaN where no token counts.
        classifier: verdicts `[blocks]`; NaN where none was asked for, infinite where stage 2 failed.
        cascade: how both stages decide.
        flag_on: whether block 0, the prompt, may be judged.

    Raises:
        ConfigError: a block must be judged, but the trace has no verdict for it.
    """
    course = _Suspicion(cascade, flag_on)
    judged: list[int] = []
    for number, (first, second) in enumerate(zip(probe, classifier, strict=True)):
        block = Block(number, number * cascade.stride, None if math.isnan(first) else float(first))
        if not course.close(block):
            continue
        if math.isnan(second):
            raise ConfigError(
                f"block {number} must be judged, but the trace has no verdict for it; "
                "score again with verdicts for all blocks"
            )
        course.judge(block, float(second))
        judged.append(number)
    flagged = course.flag_block is not None
    first_judged = course.first_judged
    return CascadeOutcome(
        course.mixed_max, flagged, course.flag_block, tuple(judged), bool(judged), first_judged
    )
