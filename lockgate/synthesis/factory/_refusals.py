"""Refusals from templates, around the constitution's own message."""

from random import Random

from lockgate.constitution import Constitution
from lockgate.synthesis.factory._topics import Topic

_OPENINGS = (
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


def write_refusal(constitution: Constitution, topic: Topic, near: Topic | None, rng: Random) -> str:
    """A refusal to a question about `topic`: the constitution's message, or its own words and an offer."""
    if rng.random() < 0.2:
        return constitution.refusal_message
    parts = [rng.choice(_OPENINGS)]
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
