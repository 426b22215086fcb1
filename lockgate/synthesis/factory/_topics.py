"""A constitution's entries as topics, and the check of which topic a text belongs to."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lockgate.constitution import BUCKETS, Constitution, HarmlessCategory
from lockgate.curation import content_stems

Kind = Literal["harmful", "near_domain", "out_of_scope", "everyday"]
KINDS: tuple[Kind, ...] = ("harmful", *BUCKETS)

# A question must be clearly nearer to another half of the policy before it is dropped.
_MARGIN = 1.0
_MIN_STEMS = 3


@dataclass(frozen=True, slots=True)
class Topic:
    """An entry of either half of the constitution. `kind` is `harmful` or the name of its bucket."""

    id: str
    kind: Kind
    title: str
    description: str
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """All that the constitution says about it."""
        return "\n".join((self.title, self.description, *self.examples))

    @property
    def is_harmful(self) -> bool:
        return self.kind == "harmful"


def list_topics(constitution: Constitution) -> list[Topic]:
    """List all entries: the harmful ones first, then bucket by bucket."""
    topics = [_topic(entry, "harmful") for entry in constitution.harmful]
    for bucket, entries in constitution.buckets.items():
        topics += [_topic(entry, bucket) for entry in entries]
    return topics


def _topic(entry: HarmlessCategory, kind: Kind) -> Topic:
    return Topic(entry.id, kind, entry.title, entry.description, tuple(entry.examples))


class Vocabulary:
    """Word stems of each entry, from the constitution's own text.

    A stem that fewer entries have weighs more. A constitution has few words, so a question without any of
    them is not taken for another entry's.
    """

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._topics = {topic.id: topic for topic in topics}
        self._stems = {topic.id: content_stems(topic.text) for topic in self._topics.values()}
        counts = Counter(stem for stems in self._stems.values() for stem in stems)
        self._weights = {stem: math.log(1 + len(self._stems) / count) for stem, count in counts.items()}
        self._domain = frozenset(
            stem
            for topic in self._topics.values()
            if topic.kind in ("harmful", "near_domain")
            for stem in self._stems[topic.id]
        )

    def score(self, text: str, topic_id: str) -> float:
        """Return the weight of the content stems that the text shares with the entry."""
        return sum(self._weights[stem] for stem in content_stems(text) & self._stems[topic_id])

    def find_fault(self, question: str, topic_id: str, *, own_words: bool = False) -> str | None:
        """Return why a question is not about its entry: `off_topic`, `other_half`, or None.

        `other_half`: an entry of the other half fits better by more than a margin. `off_topic`: the
        question has no word of the policy's domain at all (harmful and near-domain entries only), or, with
        `own_words`, none of the entry itself.
        """
        topic = self._topics[topic_id]
        own = self.score(question, topic_id)
        rival = max(
            (
                self.score(question, other.id)
                for other in self._topics.values()
                if other.is_harmful != topic.is_harmful
            ),
            default=0.0,
        )
        if rival > own + _MARGIN:
            return "other_half"
        stems = content_stems(question)
        near = topic.kind in ("harmful", "near_domain")
        strange = len(stems) >= _MIN_STEMS and not stems & self._domain
        return "off_topic" if near and own == 0 and (own_words or strange) else None
