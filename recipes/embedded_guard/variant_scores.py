"""Score whole exchanges with many probe variants in one pass, each as it would be served."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Reading, SessionPool, read_packed
from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.classifiers import ProbeHead, ProbeTap
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange

__all__ = ["RegionScore", "RollingAttention", "score_variants"]

_KV_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class RegionScore:
    """The highest streaming scores of an exchange's last user turn and of its answer; NaN if nothing is scored.

    `tokens` is the number of scored tokens.
    """

    max_prompt: float
    max_answer: float
    tokens: int


class RollingAttention:
    """The streaming form of `rolling_attention`. It keeps the last `window` values and queries of one stream."""

    def __init__(self, window: int) -> None:
        self._kept: deque[tuple[float, float]] = deque(maxlen=window)

    def consume(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Take values and queries `[tokens, 2]` of the next tokens. Returns pooled scores `[tokens, 1]`."""
        pooled = np.empty((len(logits), 1))
        for index, (value, query) in enumerate(np.asarray(logits, dtype=np.float64)):
            self._kept.append((float(value), float(query)))
            peak = max(kept[1] for kept in self._kept)
            weights = [math.exp(kept[1] - peak) for kept in self._kept]
            sums = sum(weight * kept[0] for weight, kept in zip(weights, self._kept, strict=True))
            pooled[index] = sums / sum(weights)
        return pooled


@dataclass(frozen=True, slots=True)
class _Job:
    states: tuple[StreamState, ...]
    attentions: tuple[RollingAttention | None, ...]


def score_variants(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    attention_windows: Sequence[int | None],
    exchanges: Iterable[Exchange],
) -> Iterator[list[RegionScore]]:
    """Score exchanges with every head at once, in input order.

    Args:
        attention_windows: for each head, the window of rolling attention (row 1 of the head is the query), or None for a
            head that is served as a moving average.

    Yields:
        For each exchange, one score for each head.

    Raises:
        ExchangeError: the backbone's chat template cannot render an exchange. The message has its number.
    """
    tap = ProbeTap(heads, backbone.hidden_size, backbone.device)
    with SessionPool(backbone, _KV_TOKENS + backbone.context_length) as pool:
        for parts in read_packed(pool, _readings(backbone, heads, attention_windows, exchanges), tap):
            logits = tap.logits.double().cpu().numpy()
            for part in parts:
                for index, (state, attention) in enumerate(
                    zip(part.job.states, part.job.attentions, strict=True)
                ):
                    rows = logits[part.rows, tap.columns(index)]
                    state.consume(rows[:, :1] if attention is None else attention.consume(rows))
                if part.last:
                    yield [_finish(state) for state in part.job.states]


def _readings(
    backbone: Backbone,
    heads: Sequence[ProbeHead],
    attention_windows: Sequence[int | None],
    exchanges: Iterable[Exchange],
) -> Iterator[Reading[_Job]]:
    for number, exchange in enumerate(exchanges):
        try:
            chat = backbone.render(exchange.messages, add_generation_prompt=exchange.is_prompt_only)
        except Exception as error:
            raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
        regions = Regions(chat.prefix_length, chat.prompt_start, chat.answer_start)
        never = Thresholds(math.inf)
        job = _Job(
            tuple(StreamState(never, head.gamma, regions) for head in heads),
            tuple(None if window is None else RollingAttention(window) for window in attention_windows),
        )
        # An answer without a token still closes the prompt: at least one token is always read.
        end = max(chat.answer_end, chat.prefix_length + 1)
        yield Reading(job, chat.token_ids, chat.prefix_length, end)


def _finish(state: StreamState) -> RegionScore:
    state.finish()
    return RegionScore(state.max_prompt, state.max_answer, state.scored)
