"""Scoring of whole exchanges: stage 1 reads them all, a second stage the blocks that call it.

The state machines are those that serve streams, and so is the packing of verdicts. What stage 1 says goes
straight into the state of an exchange; where a verdict is due it waits until the exchanges of a group can be
judged together. With verdicts for all blocks the second stage reads every exchange in bulk instead.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
    """One block of an exchange, as the block trace holds it: NaN where there is no reading."""

    end: int
    probe: float
    classifier: float


@dataclass(frozen=True, slots=True)
class ExchangeScore:
    """What a guard says of one exchange.

    `max_prompt` and `max_answer` are the probe's and NaN where the region has no scored token; `max_score` is
    the larger one of the regions that may flag. `cpu_s` is the exchange's share, by tokens, of the process
    time of its steps.

    With a second stage, `stage` is 2 where it was asked, `classifier_max` its largest verdict (else NaN) and
    `mixed_max` the largest mixed score, minus infinity where it was not asked; `tokens_stage2` counts what it
    read, the prefix and every verdict's suffix. A guard of one stage has its `max_score` for `mixed_max`.
    `ranked` is what exchanges are ranked by: `mixed_max`, or where a prompt alone is scored by one stage, its
    own maximum.
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
    classifier_max: float = math.nan
    tokens_stage2: int = 0
    flops_stage2: float = 0.0
    cpu_s_stage2: float = 0.0
    blocks: tuple[BlockRow, ...] = ()


def score_exchanges(
    backbone: Backbone,
    stages: Sequence[Stages],
    exchanges: Iterable[Exchange],
    *,
    first_number: int = 0,
    all_blocks: bool = False,
) -> Iterator[list[ExchangeScore]]:
    """Score exchanges in input order with the stages of one or several guards, in one pass of the backbone.

    Exchanges are scored as serving would score them, except that scoring goes on behind a flag. Memory is
    bounded: exchanges are rendered as they are read. An exchange that is longer than the backbone's context
    is read in overlapping windows; its state goes on across them.

    Args:
        first_number: number of the first exchange, for those who score a file in chunks.
        all_blocks: have stage 2 judge every block, also those it would not be asked about. The states still
            take only the verdicts that they ask for; costs are of all of them.

    Yields:
        For each exchange, one score for each of `stages`.

    Raises:
        ExchangeError: an exchange that the backbone's chat template cannot render, named by its number.
        GuardError: `all_blocks` of stages without a second one.
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
    """Exchanges that stage 1 has read to the end, one course for each of `stages`."""

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
        classifier_max=state.classifier_max,
        tokens_stage2=course.tokens,
        flops_stage2=course.flops,
        cpu_s_stage2=course.cpu_s,
        blocks=tuple(_row(block, course.verdicts.get(block.number)) for block in course.closed),
    )


def _row(block: Block, logit: float | None) -> BlockRow:
    """A reading that failed is infinite in the trace: it flags, and is no missing value."""
    verdict = math.nan if logit is None else logit if math.isfinite(logit) else math.inf
    return BlockRow(block.end, math.nan if block.probe is None else block.probe, verdict)


def finite_or_none(value: float) -> float | None:
    """A score for a table: None where there is none (no scored token in the region)."""
    return None if np.isnan(value) else float(value)
