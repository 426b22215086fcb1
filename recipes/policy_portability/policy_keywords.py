"""A keyword list as a user would write one down from the policy: what a guard has to beat.

The words of the harmful half (titles, descriptions, examples) that don't stand in the harmless half, by their first
five letters. An exchange scores the number of different ones that it holds, in the last answer alone or anywhere.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lockgate.constitution import Constitution, HarmlessCategory
from lockgate.curation import content_stems
from lockgate.exchanges import Exchange

KeywordView = Literal["answer", "exchange"]
VIEWS: tuple[KeywordView, ...] = ("answer", "exchange")


def keywords(policy: Constitution) -> frozenset[str]:
    """Stems that only the harmful half of a policy uses."""
    harmless = [category for bucket in policy.buckets.values() for category in bucket]
    return _stems(policy.harmful) - _stems(harmless)


def keyword_scores(
    exchanges: Sequence[Exchange], policy: Constitution, view: KeywordView
) -> NDArray[np.float64]:
    """Different keywords [N] in each exchange's view."""
    words = keywords(policy)
    return np.array([len(words & content_stems(_text(exchange, view))) for exchange in exchanges], float)


def best_cut(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The cut with the best balanced accuracy when a score above it is flagged; the lowest of equal ones."""
    cuts = np.unique(np.append(scores, scores.min(initial=0.0) - 1))
    rates = [((scores > cut)[labels].mean() + (scores <= cut)[~labels].mean()) / 2 for cut in cuts]
    return float(cuts[int(np.argmax(rates))])


def _stems(categories: Iterable[HarmlessCategory]) -> frozenset[str]:
    texts = (" ".join((entry.title, entry.description, *entry.examples)) for entry in categories)
    return frozenset().union(*map(content_stems, texts))


def _text(exchange: Exchange, view: KeywordView) -> str:
    if view == "answer":
        return exchange.messages[-1].content
    return "\n".join(message.content for message in exchange.messages)
