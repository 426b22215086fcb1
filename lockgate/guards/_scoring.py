"""Scoring of whole exchanges: stage 1 reads all of them, stage 2 judges blocks that escalate.

The state machines and the packing of verdicts are the same as in serving. Stage 1's logits go directly into
the state of an exchange. If a verdict is due, they wait until the exchanges of a group are judged together.
For verdicts on all blocks, the second stage reads every exchange in bulk instead.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lockgate.backbones import Backbone, RenderedChat
from lockgate.cascade import Block
from lockgate.exchanges import Exchange
from lockgate.guards._course import Course
from lockgate.guards._scheduler import VerdictScheduler
from lockgate.guards._stage1 import ReadExchange, read_stage1, stage1_flops
from lockgate.guards._stages import Stages

_KV_TOKENS = 24_576


class BlockRow(NamedTuple):
    """One block of an exchange, as in the block trace. A missing reading is NaN.

    Attributes:
        end: answer tokens read at its end.
        probe: largest smoothed logit of its tokens, not corrected for length.
        classifier: the verdict at its end; infinite if it failed.
    """

    end: int
    probe: float
    classifier: float


@dataclass(frozen=True, slots=True)
class ExchangeScore:
    """A guard's scores of one exchange.

    Attributes:
        number, exchange: the exchange and its number.
        max_prompt, max_answer: the probe's largest smoothed logit in the region; NaN without a scored token.
        max_score: the largest of them in the regions that may flag.
        flagged: whether the exchange is flagged.
        flag_token: number of the flagged token within its region; None without a flag.
        category: category with the highest head at the flag, if there is one.
        tokens, flops: tokens that stage 1 scored, and the operations of the backbone on them in serving. A
            multiply-add counts as two.
        cpu_s: the exchange's share of the process time of its steps, in seconds, split by tokens.
        mixed_max: largest mixed score; minus infinity if stage 2 was not asked. With one stage, `max_score`,
            or for a guard's screen the largest corrected reading.
        ranked: score that ranks exchanges: `mixed_max`. With one stage, a prompt alone has its own maximum.
        stage: 2 if stage 2 was asked, otherwise 1.
        released: tokens of the answer that serving lets through: all of them without a flag.
        classifier_max: largest verdict of stage 2; NaN if it was not asked.
        tokens_stage2, flops_stage2, cpu_s_stage2: the cost of stage 2. Tokens are the conversation up to the
            last verdict, without the template's prefix, and every verdict's suffix.
        blocks: the closed blocks.
        voices: the logits of each voice by its name, one for each of `blocks`, if the second stage mixes
            several and judged all blocks.
    """

    number: int
    exchange: Exchange
    max_prompt: float
    max_answer: float
    max_score: float
    flagged: bool
    flag_token: int | None
    category: str | None
    tokens: int
    flops: float
    cpu_s: float
    mixed_max: float
    ranked: float
    stage: int = 1
    released: int = 0
    classifier_max: float = math.nan
    tokens_stage2: int = 0
    flops_stage2: float = 0.0
    cpu_s_stage2: float = 0.0
    blocks: tuple[BlockRow, ...] = ()
    voices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def score_exchanges(
    backbone: Backbone,
    stages: Sequence[Stages],
    exchanges: Iterable[Exchange],
    *,
    first_number: int = 0,
    all_blocks: bool = False,
) -> Iterator[list[ExchangeScore]]:
    """Score exchanges in input order with the stages of one or several guards, in one pass of the backbone.

    Scores are the same as in serving, except that scoring continues after a flag. Memory is bounded, because
    exchanges are rendered one by one. An exchange that is longer than the backbone's context is read in
    overlapping windows, and its state continues across them.

    Args:
        stages: the stages of each guard.
        first_number: number of the first exchange, for callers that score a file in chunks.
        all_blocks: let stage 2 judge every block, not only blocks that escalate. The states still take only
            the verdicts that they ask for. Costs include all verdicts.

    Yields:
        For each exchange, one score for each of `stages`.

    Raises:
        ExchangeError: the chat template can't render an exchange. The message names its number.
        GuardError: `all_blocks` is set, and one of `stages` has no second stage.
    """
    if all_blocks:
        for one in stages:
            one.require_second()
    size = min(one.group for one in stages)
    rows = iter(exchanges)
    with ExitStack() as stack:
        schedulers = [stack.enter_context(VerdictScheduler(one.open_verdicts(_KV_TOKENS))) for one in stages]
        for number in itertools.count(first_number, size):
            group = list(itertools.islice(rows, 1))
            if not group:
                return
            members = itertools.chain(group, itertools.islice(rows, size - 1))
            held: deque[ReadExchange[Course]] = deque()
            for job in _read(backbone, stages, members, number):
                held.append(job)
                while held and not all_blocks and all(course.over for course in held[0].consumers):
                    yield _scores(held.popleft(), backbone)
            for index, (one, scheduler) in enumerate(zip(stages, schedulers, strict=True)):
                courses = [job.consumers[index] for job in held]
                if all_blocks:
                    _judge_all(one, [job.exchange for job in held], courses)
                else:
                    _judge_due(scheduler, courses)
            yield from (_scores(job, backbone) for job in held)


def _read(
    backbone: Backbone, stages: Sequence[Stages], exchanges: Iterable[Exchange], first_number: int
) -> Iterator[ReadExchange[Course]]:
    """Yield exchanges that stage 1 has read to the end, with one course for each of `stages`."""

    def courses(chat: RenderedChat) -> list[Course]:
        return [Course(one, chat) for one in stages]

    heads = [one.head for one in stages]
    for job in read_stage1(backbone, heads, exchanges, courses, first_number=first_number):
        for course in job.consumers:
            course.end()
        yield job


def _judge_due(scheduler: VerdictScheduler, courses: Sequence[Course]) -> None:
    """Give the verdicts that are due, step by step, until all exchanges are over."""
    try:
        while asks := {course.ask: course for course in courses if course.ask is not None}:
            for given in scheduler.step(list(asks)):
                if given.error is not None:
                    raise given.error
                course = asks[given.ask]
                course.take(given)
                if course.over:
                    scheduler.forget(course.conversation)
    finally:
        for course in courses:
            scheduler.forget(course.conversation)


def _judge_all(stages: Stages, exchanges: Sequence[Exchange], courses: Sequence[Course]) -> None:
    for course, scores in zip(courses, stages.read_blocks(exchanges), strict=True):
        course.take_all(scores)


def _scores(job: ReadExchange[Course], backbone: Backbone) -> list[ExchangeScore]:
    return [_score(job, course, backbone) for course in job.consumers]


def _score(job: ReadExchange[Course], course: Course, backbone: Backbone) -> ExchangeScore:
    state = course.state
    return ExchangeScore(
        number=job.number,
        exchange=job.exchange,
        max_prompt=state.max_prompt,
        max_answer=state.max_answer,
        max_score=state.max_score,
        flagged=state.flagged,
        flag_token=state.flag_token,
        category=state.category,
        tokens=state.scored,
        flops=stage1_flops(job, backbone),
        cpu_s=job.cpu_s,
        mixed_max=state.mixed_max,
        ranked=state.ranked,
        stage=state.stage,
        released=state.released,
        classifier_max=state.classifier_max,
        tokens_stage2=course.tokens,
        flops_stage2=course.flops,
        cpu_s_stage2=course.cpu_s,
        blocks=tuple(_row(block, course.verdicts.get(block.number)) for block in course.closed),
        voices={
            name: tuple(logits[block.number] for block in course.closed)
            for name, logits in course.voices.items()
        },
    )


def _row(block: Block, logit: float | None) -> BlockRow:
    """Make a row of the trace. A failed verdict is infinite, not missing, because it flags."""
    verdict = math.nan if logit is None else logit if math.isfinite(logit) else math.inf
    return BlockRow(block.end, math.nan if block.probe is None else block.probe, verdict)


def finite_or_none(value: float) -> float | None:
    """Return a score for a table. NaN, a region without a scored token, becomes None."""
    return None if np.isnan(value) else float(value)
