"""Scoring of whole exchanges by two stages: stage 1 reads them all, stage 2 those blocks that call it.

The state machine is the one that serves streams. Stage 1's logits of a group of exchanges are kept; each
exchange is then driven to its next verdict, the verdicts that are due are given together in packed steps, and
so on. With verdicts for all blocks the classifier reads every exchange in bulk instead.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone
from lockgate.cascade import Block, Cascade, CascadeState, Thresholds
from lockgate.classifiers import ClassifierSession, ExchangeClassifier, ProbeHead, score_blocks
from lockgate.errors import PoolFull
from lockgate.exchanges import Exchange
from lockgate.guards._scoring import (
    BlockRow,
    ExchangeScore,
    ReadExchange,
    new_cascade,
    read_stage1,
    regions_of,
    stage1_flops,
)
from lockgate.guards._verdicts import Verdicts

GROUP = 64
TOKENS_PER_STEP = 1024
_KV_TOKENS = 24_576


class _Recorder:
    """Keeps a stream's logits: how far a block goes is only known when its verdict is."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.floating]] = []

    def consume(self, logits: NDArray[np.floating]) -> None:
        self._parts.append(logits.copy())

    def rows(self) -> NDArray[np.floating]:
        return np.concatenate(self._parts)


@dataclass(slots=True)
class _Course:
    """One exchange on its way through the state machine."""

    job: ReadExchange[_Recorder]
    state: CascadeState
    rows: NDArray[np.floating]
    session: ClassifierSession | None = None
    done: int = 0
    tokens: int = 0
    flops: float = 0.0
    cpu_s: float = 0.0
    closed: list[Block] = field(default_factory=list)
    verdicts: dict[int, float] = field(default_factory=dict)

    def advance(self) -> bool:
        """Read on to the next verdict that is due; False when the exchange is over."""
        self._note()
        while self.state.due is None and self.done < len(self.rows):
            end = self.done + self.state.room
            self.state.consume(self.rows[self.done : end])
            self.done = min(end, len(self.rows))
            self._note()
        if self.state.due is None:
            self.state.finish()
            self._note()
        return self.state.due is not None

    def judge(self, logit: float) -> None:
        if self.state.due is not None:
            self.verdicts[self.state.due.number] = logit
        self.state.judge(logit)

    @property
    def news(self) -> list[int]:
        """Answer tokens up to the block that is due which stage 2 does not know yet."""
        chat = self.job.chat
        known = chat.answer_start if self.session is None else self.session.length
        return chat.token_ids[known : chat.answer_start + self.state.answered]

    def _note(self) -> None:
        block = self.state.closed
        if block is not None and not (self.closed and self.closed[-1] is block):
            if self.closed and self.closed[-1].number == block.number:
                self.closed.pop()
            self.closed.append(block)


def score_cascade(
    backbone: Backbone,
    head: ProbeHead,
    thresholds: Thresholds,
    cascade: Cascade,
    classifier: ExchangeClassifier,
    exchanges: Iterable[Exchange],
    *,
    first_number: int = 0,
    all_blocks: bool = False,
) -> Iterator[ExchangeScore]:
    """Score exchanges in input order as serving under both stages would, but for going on behind a flag.

    Args:
        all_blocks: ask stage 2 about every block, whatever stage 1 says: for studies and calibration. The
            state machine still takes only the verdicts that it asks for; costs are of all of them.

    Raises:
        ExchangeError: an exchange that the backbone's chat template cannot render, named by its number.
    """
    rows = iter(exchanges)
    with closing(Verdicts(classifier, _KV_TOKENS)) as verdicts:
        for number in itertools.count(first_number, GROUP):
            group = list(itertools.islice(rows, GROUP))
            if not group:
                return
            courses = []
            for job in read_stage1(backbone, [head], group, lambda _: [_Recorder()], first_number=number):
                state = new_cascade(head, thresholds, cascade, regions_of(job.chat))
                courses.append(_Course(job, state, job.consumers[0].rows()))
            if all_blocks:
                _judge_all(classifier, courses, cascade.stride)
            else:
                _judge_due(verdicts, courses)
            yield from (_score(course, backbone) for course in courses)


def _judge_all(classifier: ExchangeClassifier, courses: Sequence[_Course], stride: int) -> None:
    exchanges = [course.job.exchange for course in courses]
    for course, scores in zip(courses, score_blocks(classifier, exchanges, stride=stride), strict=True):
        while course.advance():
            due = course.state.due
            last = len(scores.logits) - 1
            course.state.judge(None if due is None else scores.logits[min(due.number, last)])
        course.verdicts = dict(enumerate(scores.logits))
        course.tokens, course.flops, course.cpu_s = scores.tokens, scores.flops, scores.cpu_s


def _judge_due(verdicts: Verdicts, courses: Sequence[_Course]) -> None:
    waiting = [course for course in courses if course.advance()]
    try:
        while waiting:
            for course in _step(verdicts, waiting):
                if not course.advance() and course.session is not None:
                    course.session.close()
            waiting = [course for course in waiting if course.state.due is not None]
    finally:
        for course in courses:
            if course.session is not None:
                course.session.close()


def _step(verdicts: Verdicts, waiting: Sequence[_Course]) -> list[_Course]:
    """Judge the first ones that are due, as many as memory and a step hold."""
    chosen: list[_Course] = []
    room = TOKENS_PER_STEP
    for course in waiting:
        if course.session is None:
            chat = course.job.chat
            try:
                course.session = verdicts.open(chat, max(course.job.end, chat.answer_start))
            except PoolFull:
                if not chosen and not verdicts.kv_used_tokens:
                    raise
                continue
        cost = course.session.cost(len(course.news))
        if chosen and cost > room:
            break
        chosen.append(course)
        room -= cost
    _judge(verdicts, chosen)
    return chosen


def _judge(verdicts: Verdicts, chosen: Sequence[_Course]) -> None:
    asks = [(course.session, course.news) for course in chosen if course.session is not None]
    costs = [session.cost(len(news)) for session, news in asks]
    started = time.process_time()
    logits = verdicts.judge(asks)
    share = (time.process_time() - started) / max(1, sum(costs))
    for course, (session, _), cost, logit in zip(chosen, asks, costs, logits, strict=True):
        course.tokens += cost
        course.cpu_s += share * cost
        course.flops += verdicts.flops(session, cost)
        course.judge(logit)


def _score(course: _Course, backbone: Backbone) -> ExchangeScore:
    job, state = course.job, course.state
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
        stage=2 if state.verdicts else 1,
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
