"""Scoring of whole exchanges: the reading, tap and stream state of serving, over many at once."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.backbones import Backbone, Reading, RenderedChat, SessionPool, read_packed
from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange

# Exchanges in flight hold at most this many tokens of keys and values (46 KB each in the embedded backbone).
_KV_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class ExchangeScore:
    """What stage 1 says of one exchange.

    `max_prompt` and `max_answer` are NaN where the region has no scored token; `max_score` is the larger one
    of the regions that may flag. `cpu_s` is the exchange's share, by tokens, of the process time of its
    steps.
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


def regions_of(chat: RenderedChat) -> Regions:
    """Where the regions of a rendered conversation begin; the template's constant prefix is never scored."""
    return Regions(start=chat.prefix_length, prompt_start=chat.prompt_start, answer_start=chat.answer_start)


@dataclass(slots=True)
class _Open:
    number: int
    exchange: Exchange
    states: list[StreamState]
    tokens: int
    cpu_s: float = 0.0


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
    tap = ProbeTap(heads, backbone.hidden_size, backbone.device)
    with SessionPool(backbone, _KV_TOKENS + backbone.context_length) as pool:
        started = time.process_time()
        readings = _readings(backbone, heads, thresholds, exchanges, first_number)
        for parts in read_packed(pool, readings, tap):
            logits = tap.logits.double().cpu().numpy()
            elapsed = time.process_time() - started
            share = elapsed / sum(part.end - part.start for part in parts)
            for part in parts:
                part.job.cpu_s += share * (part.end - part.start)
                for index, state in enumerate(part.job.states):
                    state.consume(logits[part.rows, tap.columns(index)])
                if part.last:
                    yield [_finish(part.job, state, backbone) for state in part.job.states]
            started = time.process_time()


def _readings(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    thresholds: Sequence[Thresholds],
    exchanges: Iterable[Exchange],
    first_number: int,
) -> Iterator[Reading[_Open]]:
    for number, exchange in enumerate(exchanges, first_number):
        try:
            chat = backbone.render(exchange.messages, add_generation_prompt=exchange.is_prompt_only)
        except Exception as error:
            raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
        states = [
            StreamState(threshold, head.gamma, regions_of(chat), head.category_ids)
            for head, threshold in zip(heads, thresholds, strict=True)
        ]
        # An answer without a token still closes the prompt: at least one token is always read.
        end = max(chat.answer_end, chat.prefix_length + 1)
        if end > len(chat.token_ids):
            raise ExchangeError(f"exchange {number} ({exchange.id}): there is no token that could be scored")
        yield Reading(_Open(number, exchange, states, end), chat.token_ids, chat.prefix_length, end)


def _finish(job: _Open, state: StreamState, backbone: Backbone) -> ExchangeScore:
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
        flops=state.scored * backbone.flops_per_token(job.tokens / 2),
        cpu_s=job.cpu_s,
    )


def finite_or_none(value: float) -> float | None:
    """A score for a table: None where there is none (no scored token in the region)."""
    return None if np.isnan(value) else float(value)
