"""Encodings and formats around request and answer: the request says how to read it and how to answer."""

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from lockgate.curation import find_refusal
from lockgate.exchanges import Message
from lockgate.synthesis.augmentations._base import (
    Augmentation,
    Change,
    answer_of,
    frame,
    request_of,
    unframe,
    with_answer,
    with_request,
)
from lockgate.synthesis.augmentations._codecs import CODECS, Codec
from lockgate.synthesis.augmentations._formats import FORMATS

_OPENINGS = (
    "The message below is written in {title}. Decode it and answer it.\n\n",
    "Read this text in {title} and do what it asks:\n\n",
    "My keyboard only types {title} today. Please reply to this:\n\n",
    "A puzzle first: the following is in {title}. Once you can read it, answer it.\n\n",
)
_PLAIN_ENDINGS = ("\n\nAnswer in plain English.", "\n\nReply normally.", "")
_CODED_ENDINGS = ("\n\nWrite your answer in {title} too.", "\n\nReply in {title} and in nothing else.")
_FORMAT_ENDINGS = (
    "\n\nGive the answer as {title}.",
    "\n\nReply with {title} only, without a word around it.",
    "\n\nI need this as {title}, since another program reads it.",
)


def _encode(codec: Codec, messages: tuple[Message, ...], rng: Random) -> Change:
    opening, plain, coded = rng.choice(_OPENINGS), rng.choice(_PLAIN_ENDINGS), rng.choice(_CODED_ENDINGS)
    answer, wanted = answer_of(messages), rng.random() < 0.5
    # Models refuse in plain words, also after an encoded request.
    encoded = wanted and answer is not None and find_refusal(answer) is None
    ending = (coded if wanted else plain).format(title=codec.title)
    text, span = frame(opening.format(title=codec.title), codec.encode(request_of(messages)), ending)
    changed = with_request(messages, text)
    if encoded and answer is not None:
        changed = with_answer(changed, codec.encode(answer))
    return changed, {"span": span, "answer": encoded}


def _decode(
    codec: Codec, messages: tuple[Message, ...], parameters: Mapping[str, Any]
) -> tuple[Message, ...]:
    changed = with_request(messages, codec.decode(unframe(request_of(messages), parameters["span"])))
    answer = answer_of(changed)
    return (
        with_answer(changed, codec.decode(answer)) if parameters["answer"] and answer is not None else changed
    )


def _format(codec: Codec, messages: tuple[Message, ...], rng: Random) -> Change:
    text, span = frame("", request_of(messages), rng.choice(_FORMAT_ENDINGS).format(title=codec.title))
    changed, answer = with_request(messages, text), answer_of(messages)
    formatted = answer is not None and find_refusal(answer) is None
    if formatted and answer is not None:
        changed = with_answer(changed, codec.encode(answer))
    return changed, {"span": span, "answer": formatted}


def _unformat(
    codec: Codec, messages: tuple[Message, ...], parameters: Mapping[str, Any]
) -> tuple[Message, ...]:
    changed = with_request(messages, unframe(request_of(messages), parameters["span"]))
    answer = answer_of(changed)
    return (
        with_answer(changed, codec.decode(answer)) if parameters["answer"] and answer is not None else changed
    )


def _make(
    codec: Codec, change: Callable[..., Change], revert: Callable[..., tuple[Message, ...]]
) -> Augmentation:
    return Augmentation(
        codec.name,
        codec.family,
        partial(change, codec),
        partial(revert, codec),
        growth=codec.growth,
        overhead=500,
        stage=1,
        exact=codec.exact,
    )


ENCODINGS = tuple(_make(codec, _encode, _decode) for codec in CODECS)
FORMAT_CHANGES = tuple(_make(codec, _format, _unformat) for codec in FORMATS)
