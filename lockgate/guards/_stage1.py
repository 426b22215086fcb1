"""Stage 1's reading of many whole exchanges, with the packed steps and the tap that serve streams."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Reading, RenderedChat, SessionPool, front, read_packed
from lockgate.cascade import Regions
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange

# Exchanges in progress hold at most this many tokens of keys and values (46 KB each, embedded backbone).
_KV_TOKENS = 65_536


def regions_of(chat: RenderedChat) -> Regions:
    """Return where the regions of a rendered conversation begin. The template's prefix is never scored."""
    return Regions(start=chat.prefix_length, prompt_start=chat.prompt_start, answer_start=chat.answer_start)


class Consumer(Protocol):
    """An object that takes a head's logits `[tokens, 1 + categories]`, in order."""

    def consume(self, logits: NDArray[np.floating]) -> object:
        """Take the logits of the next tokens."""
        ...


_C = TypeVar("_C", bound=Consumer)


@dataclass(slots=True)
class ReadExchange(Generic[_C]):
    """An exchange that stage 1 has read up to token `end`. It has one consumer for each head."""

    number: int
    exchange: Exchange
    chat: RenderedChat
    consumers: list[_C]
    end: int
    cpu_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return self.end - self.chat.prefix_length


def read_stage1(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    exchanges: Iterable[Exchange],
    consumers: Callable[[RenderedChat], list[_C]],
    *,
    first_number: int = 0,
) -> Iterator[ReadExchange[_C]]:
    """Read exchanges in packed steps and hand each head's logits to its consumer; see `score_exchanges`.

    Nothing is generated here, so the layers above the last one that a head reads are left out.
    """
    tap = ProbeTap(heads, backbone.hidden_size, backbone.device)
    reader = front(backbone, 1 + max(layer for head in heads for layer in head.layers))
    with SessionPool(reader, _KV_TOKENS + backbone.context_length) as pool:
        started = time.process_time()
        readings = _readings(backbone, exchanges, consumers, first_number)
        for parts in read_packed(pool, readings, tap):
            logits = tap.logits.cpu().double().numpy()
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
        # Even without an answer token the prompt is closed, because at least one token is always read.
        end = max(chat.answer_end, chat.prefix_length + 1)
        if end > len(chat.token_ids):
            raise ExchangeError(f"exchange {number} ({exchange.id}): there is no token to score")
        job = ReadExchange(number, exchange, chat, consumers(chat), end)
        yield Reading(job, chat.token_ids, chat.prefix_length, end)


def stage1_flops(job: ReadExchange[_C], backbone: Backbone) -> float:
    """Return the FLOPs of the whole backbone's reading, as in serving. A multiply-add counts as two."""
    return job.tokens * backbone.flops_per_token(job.end / 2)
