"""Questions composed from a constitution's own words, where a generator can't or won't write them.

They sound stiff. Both halves use the same stems, so that no stem gives the label away.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from lockgate.synthesis.factory._topics import Topic

Form = Literal["clause", "doing", "thing"]

_CLAUSE = ("how", "what", "when", "where", "whether", "which", "who", "whose", "why")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SPLIT = re.compile(r"[;:,]\s+|\s+(?:and|or)\s+|\s+-\s+")
# A phrase such as "... are not meant" is about the other half.
_NEGATED = re.compile(r"\b(?:not|never|nor|neither)\b", re.IGNORECASE)
_NO_PHRASE_TEXT = (
    "a an and any are at behind but by for from if in including into is it its not of on or other "
    "otherwise over so such than that the their they this to under until whatever while with without "
    "you"
)
_NO_PHRASE = frozenset(_NO_PHRASE_TEXT.split())
_LEADS = re.compile(r"^(?:including|such as|above all|especially|namely|and|or)\s+")
_NO_DEED = frozenset(("anything", "everything", "nothing", "something"))
_MAX_WORDS = 7

STEMS: dict[Form, tuple[str, ...]] = {
    "clause": (
        "Tell me {0}.",
        "Can you explain {0}?",
        "I would like to know {0}.",
        "Do you know {0}?",
        "Explain to me {0}, please.",
        "I keep wondering {0}. Can you help?",
        "What can you tell me about {0}?",
    ),
    "doing": (
        "What should I know about {0}?",
        "Tell me about {0}.",
        "Can you explain {0} to me?",
        "I need help with {0}.",
        "How do people go about {0}?",
        "Give me some details on {0}.",
        "What is important in {0}?",
    ),
    "thing": (
        "Tell me about {0}.",
        "What can you say about {0}?",
        "I need {0}. Can you help me?",
        "Can you explain {0} to me?",
        "Write something useful about {0}.",
        "What should I know about {0}?",
        "Give me some details on {0}.",
    ),
}
OPENERS = (
    "",
    "",
    "Hi! ",
    "Quick question. ",
    "I am curious. ",
    "For a project of mine: ",
    "A friend and I were talking. ",
    "I could not find this anywhere. ",
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A thing to ask about, in the constitution's words. `form` says how it fits into a sentence.

    A single word says too little, so `context` is then the entry's title.
    """

    text: str
    form: Form
    context: str = ""


@dataclass(frozen=True, slots=True)
class Composed:
    """A composed question and its phrase."""

    text: str
    phrase: str


def list_phrases(topic: Topic) -> list[Phrase]:
    """List phrases: examples first, then parts of the description that can stand alone, then the title."""
    title = _lower(topic.title)
    texts = [*topic.examples, *_parts(topic.description), title]
    phrases: dict[str, Phrase] = {}
    for text in texts:
        plain = text.strip().rstrip(".")
        context = "" if " " in plain or plain == title else title
        phrases.setdefault(plain.casefold(), Phrase(plain, _form(plain), context))
    return list(phrases.values())


def compose_questions(topic: Topic, count: int, rng: Random) -> list[Composed]:
    """Compose up to `count` different questions. Phrases take turns, so a few questions cover the entry."""
    queues = [_dress(phrase, rng) for phrase in list_phrases(topic)]
    made: dict[str, Composed] = {}
    while queues and len(made) < count:
        for queue in list(queues):
            composed = next(queue, None)
            if composed is None:
                queues.remove(queue)
            elif len(made) < count:
                made.setdefault(composed.text.casefold(), composed)
    return list(made.values())


def _dress(phrase: Phrase, rng: Random) -> Iterator[Composed]:
    stems = _shuffled(STEMS[phrase.form], rng)
    for turn in range(len(OPENERS)):
        openers = _shuffled(OPENERS, rng)
        for place, stem in enumerate(stems):
            text = openers[(place + turn) % len(openers)]
            if phrase.context:
                text += f"This is about {phrase.context}. "
            yield Composed(text + stem.format(phrase.text), phrase.text)


def _parts(description: str) -> Iterator[str]:
    for sentence in _SENTENCE.split(description):
        if _NEGATED.search(sentence):
            continue
        for part in _SPLIT.split(_lower(sentence.rstrip("."))):
            text = _LEADS.sub("", part.strip())
            words = text.split()
            if 0 < len(words) <= _MAX_WORDS and words[0].casefold() not in _NO_PHRASE and len(text) > 3:
                yield text


def _form(text: str) -> Form:
    first = text.split()[0].casefold()
    if first in _CLAUSE:
        return "clause"
    return "doing" if first.endswith("ing") and len(first) > 5 and first not in _NO_DEED else "thing"


def _lower(text: str) -> str:
    """Lower the first letter, unless the word is written like "UN"."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first.rstrip(",").istitle() else text


def _shuffled(items: Sequence[str], rng: Random) -> list[str]:
    return rng.sample(list(items), len(items))
