"""Two stages on one stream: when the second is asked, what is held meanwhile, and what both say together.

Stage 1 is the probe's smoothed logit, read token by token. Stage 2, the exchange classifier, is asked at the
ends of blocks of a fixed grid over the answer, and only while the stream is suspicious (CC++ sections 4 and
5). The grid does not depend on how tokens arrive, so offline scoring and serving ask at the same places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade._block import Block
from lockgate.cascade._stream import FlagOn, StreamState, Thresholds, Verdict
from lockgate.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Cascade:
    """How two stages decide together. Scores are logits; stages are mixed on standardised ones.

    Attributes:
        escalate: a stream is suspicious from the first token whose smoothed probe logit lies strictly above.
        flag: flagged is what lies strictly above `flag - tolerance`, in mixed scores.
        weight: share of the probe in the mixed score, 0 to 1.
        probe_mean, probe_std, classifier_mean, classifier_std: what the logits are standardised by.
        stride: answer tokens of a block.
        calm_blocks: blocks in a row without a token above `escalate` that end a suspicion.
        tolerance: numeric uncertainty of a mixed score.
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

    def mix(self, probe: float, classifier: float) -> float:
        """Mixed score of a judged block; infinite where a stage gave no finite number."""
        if not (math.isfinite(probe) and math.isfinite(classifier)):
            return math.inf
        first = (probe - self.probe_mean) / self.probe_std
        second = (classifier - self.classifier_mean) / self.classifier_std
        return self.weight * first + (1.0 - self.weight) * second

    def crossed(self, mixed: float) -> bool:
        """True if a mixed score flags. A reading that failed is infinite and flags at any threshold."""
        return mixed == math.inf or not mixed <= self.flag - self.tolerance


@dataclass(frozen=True, slots=True)
class CascadeOutcome:
    """What becomes of one exchange.

    Attributes:
        mixed_max: largest mixed score of the judged blocks; minus infinity if none was judged.
        flag_block: number of the first block that flags.
        judged_blocks: numbers of the judged blocks, also of those behind a flag, where serving has halted.
        escalated: whether stage 2 was asked at all.
        first_judged: number of the first judged block.
    """

    mixed_max: float
    flagged: bool
    flag_block: int | None
    judged_blocks: tuple[int, ...]
    escalated: bool
    first_judged: int | None


class _Suspicion:
    """The course of a stream over its blocks: shared by streams and by simulation."""

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

    def loud(self, probe: float) -> bool:
        return not probe <= self.cascade.escalate

    def close(self, block: Block) -> bool:
        """A block has ended: whether stage 2 is to be asked about it."""
        if block.probe is not None and self.loud(block.probe):
            self.active, self._quiet = True, 0
        elif self.active:
            self._quiet += 1
        due = self.active and block.number >= self._first_judgeable
        # The last quiet block was held like the others, so it is judged like the others.
        self.active = self.active and self._quiet < self.cascade.calm_blocks
        return due

    def judge(self, block: Block, logit: float | None) -> bool:
        """Take the verdict on a block; whether it flags."""
        verdict = math.inf if logit is None or not math.isfinite(logit) else logit
        mixed = self.cascade.mix(math.inf if block.probe is None else block.probe, verdict)
        self.verdicts += 1
        self.mixed_max = max(self.mixed_max, mixed)
        self.classifier_max = max(self.classifier_max, verdict)
        self.first_judged = block.number if self.first_judged is None else self.first_judged
        flags = self.cascade.crossed(mixed)
        if flags and self.flag_block is None:
            self.flag_block = block.number
        return flags


class CascadeState:
    """One stream under two stages: O(1) memory, no model, no I/O.

    `consume` tokens up to the end of a block (`room` says how many that are), then, if a verdict is `due`,
    `judge` before the next ones. A verdict that failed or came too late is None, and flags. `released` says
    how many answer tokens may leave: all that were read while the stream is calm; while it is suspicious
    those up to the last verdict; after a flag no more than before it.

    Turns: earlier turns feed the average and never make a stream suspicious; the last user turn may (it is
    judged before anything leaves with `flag_on="both"`; with `"answer"` the first block of the answer is
    judged instead). Every request has a state of its own: a regenerated answer starts anew behind the same
    prompt, and an edited conversation is rendered and scored from its beginning. Nothing is remembered of a
    suspicion or a verdict from one request to the next.

    Behind a flag the state goes on as before, so that the maxima of offline scores are those of the whole
    exchange; who serves stops at the flag.

    Args:
        cascade: how both stages decide.
        stream: the state of stage 1, nothing read yet. Its own flag threshold must be infinite: what the
            probe alone would say decides nothing here.

    Raises:
        ConfigError: a stream that has begun or that flags by itself.
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
        """Take the logits `[tokens, 1 + categories]` of the next tokens; return the smoothed main ones.

        Raises:
            ConfigError: a verdict is due, or there are more tokens than the block has `room` for.
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
        """Stage 2's verdict on the block that is `due`; None or no finite number is a failure, and flags.

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
            self._released = self.answered

    def finish(self) -> Verdict:
        """The stream has ended, which closes its last block. A verdict may be `due` then; judge it."""
        if not self._finished:
            self._finished = True
            self._close_last()
        if self.due is None and not self.flagged:
            self._released = self.answered
        return self.verdict

    @property
    def flagged(self) -> bool:
        """Whether the stream is to be halted."""
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
        """See `StreamState.max_score`: what stage 1 says by itself."""
        return self.stream.max_score

    @property
    def mixed_max(self) -> float:
        """Largest mixed score so far; minus infinity while no block was judged."""
        return self._course.mixed_max

    @property
    def classifier_max(self) -> float:
        """Largest verdict so far, infinite after a failed one; NaN while there is none."""
        return self._course.classifier_max if self._course.verdicts else math.nan

    @property
    def verdicts(self) -> int:
        """Blocks judged."""
        return self._course.verdicts

    @property
    def ranked(self) -> float:
        """See `ExchangeState.ranked`: minus infinity for what was never escalated."""
        return self.mixed_max

    @property
    def stage(self) -> int:
        """2 once the second stage was asked."""
        return 2 if self.verdicts else 1

    @property
    def verdict(self) -> Verdict:
        """What is known now. `threshold` is where the smoothed logit calls stage 2."""
        place = self.stream.place(self.stream.position - 1)
        index = place if self.flag_token is None else self.flag_token
        return Verdict(self.stream.score, self.flagged, self.category, index, self.cascade.escalate)

    def _take(self, position: int, *, armed: bool) -> None:
        if armed and position >= self.stream.regions.prompt_start:
            # What is no number counts as the highest there is.
            value = self.stream.score if math.isfinite(self.stream.score) else math.inf
            self._probe = value if self._probe is None else max(self._probe, value)
            self._course.active = self._course.active or self._course.loud(value)
        if armed and not self._course.active and not self.flagged:
            self._released = self.answered

    def _close_last(self) -> None:
        short = 0 < self.stream.scored < self.thresholds.min_tokens
        self.stream.finish()
        if short:
            self._take(self.stream.position - 1, armed=True)
        if self._number == 0 or self.answered > (self._number - 1) * self.cascade.stride:
            self._close()
        elif short:
            # Its last block was closed before it was known that no more tokens come: it is closed again.
            self._number -= 1
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
    """What a cascade would have done with one exchange, from its block trace.

    Args:
        probe: largest smoothed logit of blocks 0, 1, ... `[blocks]`; NaN where no token may judge.
        classifier: verdicts `[blocks]`; NaN where none was asked, infinite where it failed.
        flag_on: whether block 0, the prompt, is judged.

    Raises:
        ConfigError: a block is to be judged and the trace has no verdict for it.
    """
    course = _Suspicion(cascade, flag_on)
    judged: list[int] = []
    for number, (first, second) in enumerate(zip(probe, classifier, strict=True)):
        block = Block(number, number * cascade.stride, None if math.isnan(first) else float(first))
        if not course.close(block):
            continue
        if math.isnan(second):
            raise ConfigError(
                f"block {number} is to be judged, but the trace has no verdict for it; "
                "score again with verdicts for all blocks"
            )
        course.judge(block, float(second))
        judged.append(number)
    flagged = course.flag_block is not None
    first_judged = course.first_judged
    return CascadeOutcome(
        course.mixed_max, flagged, course.flag_block, tuple(judged), bool(judged), first_judged
    )
