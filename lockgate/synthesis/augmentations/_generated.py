"""Augmentations that need a generator: the request to send, and the parser of the completion."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from lockgate.curation import find_refusal
from lockgate.errors import SynthesisError
from lockgate.exchanges import Exchange, Message, normalise_text
from lockgate.synthesis._requests import GenerationRequest
from lockgate.synthesis.augmentations._base import answer_of, last_user, request_of, with_answer, with_request

Part = Literal["request", "answer"]

REWORDED_TOKENS = 512
_LEAST, _MOST = 0.3, 4.0
_LABEL = re.compile(
    r"\A\s*(?:translation|paraphrase|rewritten|here (?:is|are)[^\n:]{0,60}):\s*", re.IGNORECASE
)
_QUOTES = (('"', '"'), ("“", "”"), ("«", "»"))


@dataclass(frozen=True, slots=True)
class GeneratedAugmentation:
    """A request to a generator, and `parse`, which makes the new exchange from the completion's text.

    `parse` raises SynthesisError for an empty, unchanged or refused completion, and for one with an
    implausible length. The error's reason holds no text. The new exchange can't be undone.
    """

    request: GenerationRequest
    parse: Callable[[str], Exchange]


def translate_exchange(
    exchange: Exchange, language: str, seed: int, part: Part = "request"
) -> GeneratedAugmentation:
    """Make the request to translate one part of an exchange into a language, named in English."""
    task = f"Translate the text between the lines into {language}. Reply with the translation only."
    return _ask(exchange, "translation", task, seed, part, {"language": language})


def paraphrase_exchange(exchange: Exchange, seed: int, part: Part = "request") -> GeneratedAugmentation:
    """Make the request to paraphrase one part of an exchange."""
    task = (
        "Say the text between the lines in other words, with the same meaning. Reply with the new text only."
    )
    return _ask(exchange, "paraphrase", task, seed, part, {})


def _ask(
    exchange: Exchange, name: str, task: str, seed: int, part: Part, parameters: dict[str, str]
) -> GeneratedAugmentation:
    source = request_of(exchange.messages) if part == "request" else answer_of(exchange.messages)
    if not (source or "").strip() or (part == "request" and last_user(exchange.messages) is None):
        raise SynthesisError(f"augmentation {name}: the exchange has no {part} with text")
    original = source or ""
    message = Message("user", f"{task}\n-----\n{original}\n-----")
    request = GenerationRequest((message,), max_tokens=REWORDED_TOKENS, seed=seed, purpose=name)

    def parse(text: str) -> Exchange:
        written = _clean(text)
        if reason := _fault(original, written):
            raise SynthesisError(f"augmentation {name}: {reason}")
        change = with_request if part == "request" else with_answer
        record = {"family": name, "name": name, "parameters": {**parameters, "part": part}, "seed": seed}
        meta = {
            **exchange.meta,
            "augmentations": [*exchange.meta.get("augmentations", ()), record],
            "original": exchange.meta.get("original", exchange.id),
        }
        return replace(exchange, messages=change(exchange.messages, written), meta=meta)

    return GeneratedAugmentation(request, parse)


def _clean(text: str) -> str:
    """Remove separator lines, a label, and quotes around the whole text."""
    cleaned = _LABEL.sub("", text.strip().strip("-").strip())
    for first, last in _QUOTES:
        if len(cleaned) > 1 and cleaned.startswith(first) and cleaned.endswith(last):
            return cleaned[1:-1].strip()
    return cleaned


def _fault(original: str, written: str) -> str | None:
    if not written:
        return "the completion is empty"
    if normalise_text(written) == normalise_text(original):
        return "the completion repeats the text unchanged"
    if find_refusal(written) is not None and find_refusal(original) is None:
        return "the completion is a refusal"
    if not _LEAST * len(original) <= len(written) <= _MOST * len(original) + 40:
        return f"the completion has {len(written) / len(original):.2g} times the text's length"
    return None
