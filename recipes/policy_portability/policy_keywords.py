"""A baseline for the guards: a keyword list that a user could write from the policy.

It has the words of the harmful half (titles, descriptions, examples) that are not in the harmless half, compared by
their first five letters. An exchange's score is the number of different keywords, in the last answer or anywhere.
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
    """Return the stems that only the harmful half of a policy uses."""
    harmless = [category for bucket in policy.buckets.values() for category in bucket]
    return _stems(policy.harmful) - _stems(harmless)


def keyword_scores(
    exchanges: Sequence[Exchange], policy: Constitution, view: KeywordView
) -> NDArray[np.float64]:
    """Return the number of different keywords [N] in each exchange's view."""
    words = keywords(policy)
    return np.array([len(words & content_stems(_text(exchange, view))) for exchange in exchanges], float)


def best_cut(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the cut with the best balanced accuracy, if scores above it are flagged. Of equal cuts, return the lowest."""
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
