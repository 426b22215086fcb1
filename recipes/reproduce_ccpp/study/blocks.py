"""A part's blocks as padded arrays, and the two-stage rule over all of its exchanges at once.

`lockgate.cascade` has the rule as a state machine for one stream. Sweeps over thresholds and weights need it for N
exchanges, block by block. A property test checks that both give the same result.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade import Cascade, FlagOn
from lockgate.errors import ExchangeError
from lockgate.evaluation import Floats, Mask
from lockgate.tables import BlockTrace, ScoresTable

__all__ = ["Blocks", "Judged", "judge_blocks", "mix"]


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of N exchanges, padded to the longest.

    Attributes:
        ends: number of answer tokens up to each block's end; padding repeats the row's last value [N, B].
        present: cells that are blocks [N, B].
        screen: score of stage 1; NaN if it may not flag there [N, B].
        verdict: logit of the exchange classifier; NaN if it was not asked [N, B].
    """

    ends: NDArray[np.int64]
    present: Mask
    screen: Floats
    verdict: Floats

    @classmethod
    def of(cls, trace: BlockTrace, table: ScoresTable, origin: str = "block trace") -> "Blocks":
        """Return the blocks of each row of `table`, in its order, with the probe as stage 1.

        Raises:
            ExchangeError: the table and the trace do not hold the same rows. The message names `origin`.
        """
        numbers = table.floats("row").astype(np.int64)
        order = np.argsort(numbers, kind="stable")
        if len(np.unique(numbers)) != len(numbers):
            raise ExchangeError(f"{origin}: the scores table repeats row numbers; expected one file's rows")
        if not np.array_equal(numbers[order], trace.rows):
            odd = np.setxor1d(numbers, trace.rows)
            raise ExchangeError(
                f"{origin}: {len(odd)} rows stand in the scores table or in the trace alone, the first is "
                f"{odd[0]}; write both in one run"
            )
        place = order[np.searchsorted(numbers[order], trace.row)]
        shape = (len(numbers), int(trace.block.max(initial=-1)) + 1)
        present = np.zeros(shape, dtype=bool)
        ends = np.zeros(shape, dtype=np.int64)
        screen, verdict = np.full(shape, np.nan), np.full(shape, np.nan)
        cells = (place, trace.block.astype(np.intp))
        present[cells], ends[cells] = True, trace.end
        screen[cells], verdict[cells] = trace.probe, trace.classifier
        return cls(np.maximum.accumulate(ends, axis=1), present, screen, verdict)

    @property
    def answer_tokens(self) -> NDArray[np.int64]:
        """Length of each answer [N]."""
        return self.ends[:, -1] if self.ends.shape[1] else np.zeros(len(self.ends), dtype=np.int64)

    def screened_by(self, other: "Blocks", origin: str) -> "Blocks":
        """Return the same blocks with another classifier's verdicts as stage 1.

        Raises:
            ExchangeError: the other trace has other blocks. The message names `origin`.
        """
        if self.present.shape != other.present.shape or not (
            np.array_equal(self.present, other.present) and np.array_equal(self.ends, other.ends)
        ):
            raise ExchangeError(
                f"{origin}: its blocks end elsewhere than those of the exchange classifier; "
                "score both with one stride on the same exchanges"
            )
        return replace(self, screen=other.verdict)

    def select(self, rows: NDArray[np.intp] | Mask) -> "Blocks":
        """Return the blocks of some of the exchanges."""
        return Blocks(self.ends[rows], self.present[rows], self.screen[rows], self.verdict[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The result of the rule: judged blocks, blocks in which suspicion began, and mixed scores, all [N, B].

    `mixed` is minus infinity for blocks that are not judged.
    """

    judged: Mask
    began: Mask
    mixed: Floats

    @property
    def escalated(self) -> Mask:
        """Exchanges that reached stage 2 [N]."""
        return np.asarray(self.judged.any(axis=1))


def judge_blocks(blocks: Blocks, cascade: Cascade, flag_on: FlagOn = "both") -> Judged:
    """Run the two-stage rule over every exchange to its end, as if nothing were halted.

    Raises:
        ExchangeError: a judged block has no verdict in the trace.
    """
    judged, began = np.zeros_like(blocks.present), np.zeros_like(blocks.present)
    suspicious = np.zeros(len(judged), dtype=bool)
    quiet = np.zeros(len(judged), dtype=np.int64)
    screen = cascade.corrected_blocks(blocks.screen)
    for j in range(judged.shape[1]):
        here = blocks.present[:, j]
        hot = here & (screen[:, j] > cascade.escalate)
        began[:, j] = hot & ~suspicious
        suspicious |= hot
        quiet = np.where(hot, 0, quiet + (suspicious & here))
        # The last quiet block is judged too: its tokens were held.
        judged[:, j] = suspicious & here
        suspicious &= quiet < cascade.calm_blocks
    if flag_on == "answer":
        judged[:, :1] = False
    return Judged(judged, began, mix(blocks, cascade, judged))


def mix(blocks: Blocks, cascade: Cascade, judged: Mask) -> Floats:
    """Return mixed scores [N, B] of the judged blocks, minus infinity elsewhere. A failed reading is +inf.

    Raises:
        ExchangeError: a judged block has no verdict in the trace.
    """
    missing = judged & np.isnan(blocks.verdict)
    if missing.any():
        row, block = np.argwhere(missing)[0]
        raise ExchangeError(
            f"exchange {row}, block {block} is to be judged but has no verdict in its trace; "
            "score the part with verdicts for all blocks"
        )
    screen = (cascade.corrected_blocks(blocks.screen) - cascade.probe_mean) / cascade.probe_std
    verdict = (blocks.verdict - cascade.classifier_mean) / cascade.classifier_std
    sound = np.isfinite(screen) & np.isfinite(verdict)
    mixed = cascade.weight * np.where(sound, screen, 0) + (1 - cascade.weight) * np.where(sound, verdict, 0)
    return np.where(judged, np.where(sound, mixed, np.inf), -np.inf)
