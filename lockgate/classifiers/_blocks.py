"""Bulk verdicts on whole exchanges at the end of every block, with the sessions that serve streams."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lockgate.backbones import SessionPool
from lockgate.classifiers._exchange import ExchangeClassifier
from lockgate.classifiers._sessions import ClassifierSession, judge
from lockgate.errors import ConfigError, ExchangeError, PoolFull
from lockgate.exchanges import Exchange

STRIDE = 8
TOKENS_PER_STEP = 1024
# Exchanges in progress hold at most this many tokens of keys and values, plus one context.
_KV_TOKENS = 24_576


@dataclass(frozen=True, slots=True)
class BlockScores:
    """A classifier's verdicts on one exchange.

    Attributes:
        number, exchange: the exchange and its number.
        ends: answer tokens read at the end of each block. The first is 0, before the answer.
        logits: the verdict at each end. A verdict that is not finite is stored as infinite, so that it counts
            as the highest.
        tokens: tokens read, including suffixes.
        flops: operations; a multiply-add counts as two.
        cpu_s: the exchange's share of the process time of its steps, in seconds, split by tokens.
        voices: the logits of each voice by its name, if several judges are mixed into `logits`.
    """

    number: int
    exchange: Exchange
    ends: list[int]
    logits: list[float]
    tokens: int
    flops: float
    cpu_s: float
    voices: Mapping[str, Sequence[float]] = field(default_factory=dict)


def block_ends(answer_tokens: int, stride: int = STRIDE) -> list[int]:
    """Return the answer tokens read at each block's end: 0, every `stride` tokens, and the answer's end."""
    return [0, *range(stride, answer_tokens, stride), *([answer_tokens] if answer_tokens else [])]


@dataclass(slots=True)
class _Job:
    number: int
    exchange: Exchange
    session: ClassifierSession
    answer: list[int]
    ends: list[int]
    logits: list[float] = field(default_factory=list)
    tokens: int = 0
    flops: float = 0.0
    cpu_s: float = 0.0

    def news(self) -> list[int]:
        """Answer tokens of the next block."""
        done = len(self.logits)
        return self.answer[self.ends[done - 1] if done else 0 : self.ends[done]]

    @property
    def finished(self) -> bool:
        return len(self.logits) == len(self.ends)

    def scores(self) -> BlockScores:
        return BlockScores(
            self.number, self.exchange, self.ends, self.logits, self.tokens, self.flops, self.cpu_s
        )


def score_blocks(
    classifier: ExchangeClassifier,
    exchanges: Iterable[Exchange],
    *,
    stride: int = STRIDE,
    first_number: int = 0,
) -> Iterator[BlockScores]:
    """Judge whole exchanges at the end of every block, in input order.

    Block 0 ends where the answer begins. A classifier that reads only prompts has no other block. The plan of
    the steps depends on the input alone. Memory is bounded.

    Args:
        stride: answer tokens in a block.
        first_number: number of the first exchange.

    Raises:
        ExchangeError: the template refuses an exchange. The message names its number.
        ConfigError: the stride is below 1.
    """
    if stride < 1:
        raise ConfigError(f"stride: expected at least 1 token, found {stride}")
    source = enumerate(exchanges, first_number)
    with classifier.pool(_KV_TOKENS + classifier.backbone.context_length) as pool:
        waiting: tuple[int, Exchange] | None = None
        running: deque[_Job] = deque()
        while True:
            room = TOKENS_PER_STEP - sum(_cost(job) for job in running if not job.finished)
            while room > 0:
                waiting = waiting or next(source, None)
                if waiting is None:
                    break
                job = _start(classifier, pool, *waiting, stride)
                if job is None:
                    break
                running.append(job)
                room -= _cost(job)
                waiting = None
            if not running:
                return
            _step(classifier, pool, _choose(running))
            while running and running[0].finished:
                yield running.popleft().scores()


def _start(
    classifier: ExchangeClassifier, pool: SessionPool, number: int, exchange: Exchange, stride: int
) -> _Job | None:
    """Start a job with its own memory. Return None if there is no memory now."""
    try:
        chat = classifier.render(exchange.messages)
    except Exception as error:
        raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
    answer = chat.token_ids[chat.answer_start : chat.answer_end]
    try:
        session = classifier.open(pool, chat, chat.answer_end)
    except PoolFull:
        if not pool.kv_used_tokens:
            raise
        return None
    return _Job(number, exchange, session, answer, block_ends(len(answer), stride))


def _cost(job: _Job) -> int:
    return job.session.cost(len(job.news()))


def _choose(running: Iterable[_Job]) -> list[_Job]:
    """Choose the oldest jobs whose next blocks fit a step. There is at least one."""
    chosen: list[_Job] = []
    room = TOKENS_PER_STEP
    for job in running:
        if job.finished:
            continue
        cost = _cost(job)
        if not chosen or cost <= room:
            chosen.append(job)
            room -= cost
        if room <= 0:
            break
    return chosen


def _step(classifier: ExchangeClassifier, pool: SessionPool, jobs: Sequence[_Job]) -> None:
    costs = [_cost(job) for job in jobs]
    started = time.process_time()
    logits = judge(pool, [(job.session, job.news()) for job in jobs])
    share = (time.process_time() - started) / sum(costs)
    for job, cost, logit in zip(jobs, costs, logits, strict=True):
        job.logits.append(logit if math.isfinite(logit) else math.inf)
        job.tokens += cost
        job.cpu_s += share * cost
        context = job.session.length + classifier.tokens_per_verdict
        job.flops += classifier.flops(cost, max(0, min(context, classifier.backbone.context_length) - cost))
        if job.finished:
            job.session.close()
