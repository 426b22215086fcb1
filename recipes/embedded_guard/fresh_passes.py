"""Fresh activations: batches of whole exchanges, read when training needs them and not kept.

The activations of 0.6 million tokens at three sites would take over 100 GB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lockgate.backbones import Backbone, Feed, SessionPool, Site
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.training import ActivationTap, cut_exchange, mean_and_std

__all__ = ["PlannedExchange", "plan_batches", "read_batches", "standardisation_of"]


@dataclass(frozen=True, slots=True)
class PlannedExchange:
    """An exchange to read. `token_ids` starts with the template's constant prefix, which is not shown to training."""

    id: str
    label: float
    token_ids: tuple[int, ...]
    prefix_length: int

    @property
    def scored(self) -> int:
        """Number of tokens that are shown to training."""
        return len(self.token_ids) - self.prefix_length


def plan_batches(
    backbone: Backbone, exchanges: Sequence[Exchange], *, tokens: int, max_tokens: int, batch: int, seed: int
) -> list[list[PlannedExchange]]:
    """Plan batches of exchanges in a random order.

    Args:
        tokens: largest number of tokens in all batches.
        batch: exchanges in a batch.
        max_tokens: a longer exchange keeps the template's prefix and its last tokens.

    Raises:
        TrainingError: an exchange has no label, or no exchange fits.
    """
    limit = min(max_tokens, backbone.context_length)
    planned: list[PlannedExchange] = []
    left = tokens
    for index in np.random.default_rng(seed).permutation(len(exchanges)):
        exchange = exchanges[index]
        if exchange.label is None:
            raise TrainingError(f"exchange {exchange.id}: training needs a label; found none")
        ids, prefix_length, _ = cut_exchange(backbone, exchange, limit)
        left -= len(ids)
        if left < 0:
            break
        planned.append(PlannedExchange(exchange.id, exchange.label, tuple(ids), prefix_length))
    if not planned:
        raise TrainingError(f"no exchange fits into {tokens} tokens; allow more")
    return [planned[start : start + batch] for start in range(0, len(planned), batch)]


class SitesTap:
    """A tap that keeps the activations of one step at several sites, `[layers, tokens, hidden]` each, float32."""

    def __init__(self, layers: Mapping[Site, Sequence[int]], hidden_size: int) -> None:
        self._taps = {site: ActivationTap(wanted, site, hidden_size) for site, wanted in layers.items()}

    @property
    def wanted(self) -> Sequence[tuple[int, Site]]:
        """The layers of every site."""
        return [pair for tap in self._taps.values() for pair in tap.wanted]

    @property
    def hidden(self) -> dict[Site, Tensor]:
        """Activations of the last step by site. The caller may change them in place."""
        return {site: tap.hidden for site, tap in self._taps.items()}

    def begin(self, tokens: int) -> None:
        """Allocate memory for a step."""
        for tap in self._taps.values():
            tap.begin(tokens)

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Keep a copy of the activations."""
        self._taps[site].see(layer, site, hidden)


def read_batches(
    backbone: Backbone, batches: Sequence[Sequence[PlannedExchange]], layers: Mapping[Site, Sequence[int]]
) -> Iterator[dict[Site, Tensor]]:
    """Read each batch in one packed step.

    Yields:
        For each site, `[layers, tokens, hidden]`: the scored tokens of the batch's exchanges, one after the other.
    """
    if not batches:
        return
    tap = SitesTap(layers, backbone.hidden_size)
    room = max(sum(len(planned.token_ids) for planned in batch) for batch in batches)
    with SessionPool(backbone, room) as pool:
        for batch in batches:
            feeds = []
            for planned in batch:
                prefix = planned.token_ids[: planned.prefix_length]
                session = pool.open(len(planned.token_ids), prefix=prefix)
                feeds.append(Feed(session, planned.token_ids[planned.prefix_length :]))
            pool.step(feeds, tap)
            for feed in feeds:
                feed.session.close()
            yield tap.hidden


def standardisation_of(
    backbone: Backbone, batches: Sequence[Sequence[PlannedExchange]], layers: Mapping[Site, Sequence[int]]
) -> dict[Site, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation over the tokens for each site, `[layers, hidden]` float64."""
    count = 0
    sums: dict[Site, list[Tensor]] = {}
    for hidden in read_batches(backbone, batches, layers):
        count += next(iter(hidden.values())).shape[1]
        for site, values in hidden.items():
            doubled = values.double()
            found = [doubled.sum(1), (doubled**2).sum(1)]
            known = sums.setdefault(site, [torch.zeros_like(part) for part in found])
            sums[site] = [old + new for old, new in zip(known, found, strict=True)]
    return {
        site: mean_and_std(count, part.numpy(), squares.numpy()) for site, (part, squares) in sums.items()
    }
