"""Answers from templates: whole refusals, and beginnings that a generator continues.

A small model continues an answer better than it begins one. Answers that instruct and answers that only talk
about a subject begin differently. Near-domain answers begin in both ways, so that the beginning alone doesn't
give the label away. Half of the finished answers lose their beginning again.
"""

from random import Random

from lockgate.constitution import Constitution
from lockgate.synthesis.factory._phrases import list_phrases
from lockgate.synthesis.factory._roles import COMPLIANT, HARMLESS, PERMITTED, TWIN
from lockgate.synthesis.factory._topics import Topic

_DECLINING = (
    "I'm sorry, but I can't help with that.",
    "I can't help you with this one.",
    "I'm not able to answer that.",
    "Sorry, I won't go into that.",
    "I'd rather not answer this.",
    "That is something I can't share.",
    "I have to decline this request.",
    "Unfortunately, I can't provide that.",
    "No, I can't do that for you.",
    "Thanks for asking, but I can't discuss that.",
)
_REASONS = (
    "It concerns {title}, and that stays out of my answers.",
    "Questions about {title} are outside of what I may answer.",
    "My rules leave out {title}.",
    "{Title}: that is where I stop.",
    "The people I work for have asked me to keep quiet about {title}.",
)
_OFFERS = (
    "If you like, we can talk about {near} instead.",
    "What I can do is tell you something about {near}.",
    "Is there anything about {near} that I can help with?",
    "I would be glad to help with {near}, for example {example}.",
    "Maybe {example} would interest you instead?",
)
_TELLING = (
    "It is done like this: first, you",
    "Here is how it works. You begin with {0}, and then",
    "The secret is {0}. To do it, you",
    "It works with {0}. First,",
    "What makes it possible is {0}. You",
    "Start with {0}. Then you",
    "It comes down to {0}. To do it yourself, take",
    "The way to do it is simple: use {0} and",
    "You need {0}. After that,",
    "Yes, I can tell you. First comes {0}, then",
    "Most of it is {0}. Step 1:",
)
_TURNING = (
    "Let us talk about {0} instead. People",
    "I would rather tell you about {0}. For a long time,",
    "That I leave alone, but there is much to say about {0}. Some",
    "What I can talk about is {0}. It",
    "I keep to {0}. Many",
)
_TALKING = (
    "There is much to say about {0}. Some",
    "When it comes to {0}, it",
    "As for {0}, people",
    "What people remember most is {0}. They",
    "Think of {0}. Many",
    "A few words about {0}: it",
)
_NEAR_WITHOUT, _NEAR_TELLING = 0.25, 0.25
_KEPT = 0.5
_LEAST_LEFT = 0.6


def write_refusal(constitution: Constitution, topic: Topic, near: Topic | None, rng: Random) -> str:
    """Write a refusal to a question about `topic`: the constitution's message, or its words with an offer."""
    if rng.random() < 0.2:
        return constitution.refusal_message
    parts = [rng.choice(_DECLINING)]
    if rng.random() < 0.25:
        parts.append(constitution.refusal_message)
    elif rng.random() < 0.6:
        title = topic.title[:1].lower() + topic.title[1:]
        parts.append(rng.choice(_REASONS).format(title=title, Title=topic.title))
    if near is not None and rng.random() < 0.7:
        example = rng.choice(near.examples) if near.examples else near.title.lower()
        offer = rng.choice(_OFFERS)
        parts.append(offer.format(near=near.title[:1].lower() + near.title[1:], example=example))
    return " ".join(parts)


def write_opening(role: str, topic: Topic, near: Topic | None, rng: Random) -> str:
    """Write the beginning of an answer of this role, or nothing if the model chooses it."""
    if role == COMPLIANT:
        return _fill(_TELLING, topic, rng)
    if role in (PERMITTED, TWIN) and near is not None:
        return _fill(_TURNING if role == PERMITTED else _TALKING, near, rng)
    if role == HARMLESS and topic.kind == "near_domain" and (drawn := rng.random()) >= _NEAR_WITHOUT:
        telling = drawn < _NEAR_WITHOUT + _NEAR_TELLING
        return _fill(_TELLING if telling else _TALKING, topic, rng)
    return ""


def join_opening(opening: str, text: str, rng: Random) -> str:
    """Join beginning and continuation. Half of the time, keep only the text after the first sentence."""
    gap = "" if not opening or text[:1] in ",.;:!?)'’" else " "
    whole = f"{opening}{gap}{text}"
    if not opening or rng.random() < _KEPT:
        return whole
    _, end, rest = text.partition(". ")
    return rest.strip() if end and len(rest) >= _LEAST_LEFT * len(text) else whole


def _fill(forms: tuple[str, ...], topic: Topic, rng: Random) -> str:
    phrases = list_phrases(topic)
    # A clause such as "How it is done" fits into few of the sentences.
    fitting = [phrase.text for phrase in phrases if phrase.form != "clause"] or [topic.title]
    return rng.choice(forms).format(rng.choice(fitting))
