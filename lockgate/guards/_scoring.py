"""Scoring of whole exchanges: the reading, tap and stream state of serving, over many at once."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Reading, RenderedChat, SessionPool, read_packed
from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange

# Exchanges in flight hold at most this many tokens of keys and values (46 KB each in the embedded backbone).
_KV_TOKENS = 65_536


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
    stage: int = 1
    classifier_max: float = math.nan
    tokens_stage2: int = 0
    flops_stage2: float = 0.0
    cpu_s_stage2: float = 0.0
    blocks: tuple[BlockRow, ...] = ()


def regions_of(chat: RenderedChat) -> Regions:
    """Where the regions of a rendered conversation begin; the template's constant prefix is never scored."""
    return Regions(start=chat.prefix_length, prompt_start=chat.prompt_start, answer_start=chat.answer_start)


def new_stream(head: ProbeHead, thresholds: Thresholds, regions: Regions) -> StreamState:
    """The state machine of one exchange, for files, streams and the gateway alike."""
    return StreamState(thresholds, head.gamma, regions, head.category_ids)


def new_cascade(head: ProbeHead, thresholds: Thresholds, cascade: Cascade, regions: Regions) -> CascadeState:
    """The same under two stages: what the probe alone would flag at plays no part."""
    alone = Thresholds(math.inf, min_tokens=thresholds.min_tokens, flag_on=thresholds.flag_on)
    return CascadeState(cascade, new_stream(head, alone, regions))


class Consumer(Protocol):
    """Something that takes a head's logits `[tokens, 1 + categories]`, in order."""

    def consume(self, logits: NDArray[np.floating]) -> object:
        """Take the logits of the next tokens."""
        ...


_C = TypeVar("_C", bound=Consumer)


@dataclass(slots=True)
class ReadExchange(Generic[_C]):
    """An exchange that stage 1 has read up to `end`: one consumer a head."""

    number: int
    exchange: Exchange
    chat: RenderedChat
    consumers: list[_C]
    end: int
    cpu_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return self.end - self.chat.prefix_length


def score_exchanges(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    thresholds: Sequence[Thresholds],
    exchanges: Iterable[Exchange],
    *,
    first_number: int = 0,
) -> Iterator[list[ExchangeScore]]:
    """Score exchanges in input order with one or several heads in a single pass.

    Memory is bounded: exchanges are rendered as they are read. Longer ones than the backbone's context are
    read in overlapping windows; the stream state goes on across them.

    Args:
        first_number: number of the first exchange, for those who score a file in chunks.

    Yields:
        For each exchange, one score per head.

    Raises:
        ExchangeError: an exchange that the backbone's chat template cannot render, named by its number.
    """

    def states(chat: RenderedChat) -> list[StreamState]:
        return [
            new_stream(head, threshold, regions_of(chat))
            for head, threshold in zip(heads, thresholds, strict=True)
        ]

    for job in read_stage1(backbone, heads, exchanges, states, first_number=first_number):
        yield [_finish(job, state, backbone) for state in job.consumers]


def read_stage1(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    exchanges: Iterable[Exchange],
    consumers: Callable[[RenderedChat], list[_C]],
    *,
    first_number: int = 0,
) -> Iterator[ReadExchange[_C]]:
    """Read exchanges in packed steps and hand each head's logits to its consumer; see `score_exchanges`."""
    tap = ProbeTap(heads, backbone.hidden_size, backbone.device)
    with SessionPool(backbone, _KV_TOKENS + backbone.context_length) as pool:
        started = time.process_time()
        readings = _readings(backbone, exchanges, consumers, first_number)
        for parts in read_packed(pool, readings, tap):
            logits = tap.logits.double().cpu().numpy()
            elapsed = time.process_time() - started
            share = elapsed / sum(part.end - part.start for part in parts)
            for part in parts:
                part.job.cpu_s += share * (part.end - part.start)
                for index, consumer in enumerate(part.job.consumers):
                    consumer.consume(logits[part.rows, tap.columns(index)])
                if part.last:
                    yield part.job
            started = time.process_time()


def _readings(
    backbone: Backbone,
    exchanges: Iterable[Exchange],
    consumers: Callable[[RenderedChat], list[_C]],
    first_number: int,
) -> Iterator[Reading[ReadExchange[_C]]]:
    for number, exchange in enumerate(exchanges, first_number):
        try:
            chat = backbone.render(exchange.messages, add_generation_prompt=exchange.is_prompt_only)
        except Exception as error:
            raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
        # An answer without a token still closes the prompt: at least one token is always read.
        end = max(chat.answer_end, chat.prefix_length + 1)
        if end > len(chat.token_ids):
            raise ExchangeError(f"exchange {number} ({exchange.id}): there is no token that could be scored")
        job = ReadExchange(number, exchange, chat, consumers(chat), end)
        yield Reading(job, chat.token_ids, chat.prefix_length, end)


def _finish(job: ReadExchange[StreamState], state: StreamState, backbone: Backbone) -> ExchangeScore:
    verdict = state.finish()
    return ExchangeScore(
        number=job.number,
        exchange=job.exchange,
        max_prompt=state.max_prompt,
        max_answer=state.max_answer,
        max_score=state.max_score,
        flagged=verdict.flagged,
        flag_token=state.flag_token,
        category=verdict.category,
        tokens=state.scored,
        flops=stage1_flops(job, backbone),
        cpu_s=job.cpu_s,
        mixed_max=state.max_score,
    )


def stage1_flops(job: ReadExchange[_C], backbone: Backbone) -> float:
    """Multiply-adds counted twice of the backbone's own reading."""
    return job.tokens * backbone.flops_per_token(job.end / 2)


def finite_or_none(value: float) -> float | None:
    """A score for a table: None where there is none (no scored token in the region)."""
    return None if np.isnan(value) else float(value)
