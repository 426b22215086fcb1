"""A verdict from the log-probabilities of an answer's first token, in OpenAI's form."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# Marks that tokenizers and models put around a word.
_AROUND = " \t\r\n\u2581\u0120\u010a*_\"'`.,:;!?()[]<>"
# OpenAI sends -9999 where there is no number.
_NO_NUMBER = -1000.0
# A side that is not in the list is not impossible. So no verdict is surer than single precision.
_LEAST = 2.0**-30
# Two tokens share at most all of the probability, and roundings.
_FORCED = 1.01
_NOT_CHOSEN = "the reply holds no log-probability of the chosen token"


class NoVerdict(Exception):
    """A reply holds no verdict. The text says why, without text of the reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply holds.

    Attributes:
        logit: log of the harmful words' probability over that of the harmless words.
        prompt_tokens, completion_tokens: as the endpoint counts them; 0 if it does not.
    """

    logit: float
    prompt_tokens: int
    completion_tokens: int


class Words(Protocol):
    """The verdict words of a template or a layout."""

    @property
    def harmful(self) -> tuple[str, ...]: ...

    @property
    def harmless(self) -> tuple[str, ...]: ...


def read_reply(body: bytes, template: Words) -> Reply:
    """Read the verdict in the body of a chat completion.

    The first token that begins a verdict word is the verdict's place, or else the first token.

    Raises:
        NoVerdict: the body is malformed, log-probabilities are missing, or no verdict word is among them.
    """
    entries, usage = _read_entries(body)
    entry = next((found for found in entries if _says(found, template)), entries[0])
    others = _get(entry, "top_logprobs")
    listed = [_token(found) for found in others] if isinstance(others, list) else []
    known = [found for found in listed if found is not None]
    logit = _of_listed(known, template) if known else _of_chosen(_token(entry), template)
    return Reply(logit, *usage)


def read_forced(harmful: bytes, harmless: bytes) -> Reply:
    """Read the verdict in two bodies, each of a request that left the words of one side only.

    Raises:
        NoVerdict: a body is malformed or holds no log-probability, or both are those of a forced choice.
    """
    sides = [_read_entries(body) for body in (harmful, harmless)]
    chosen = [_token(entries[0]) for entries, _ in sides]
    if chosen[0] is None or chosen[1] is None:
        raise NoVerdict(_NOT_CHOSEN)
    logprobs = [found[1] for found in chosen if found is not None]
    if math.exp(logprobs[0]) + math.exp(logprobs[1]) > _FORCED:
        raise NoVerdict(
            "the endpoint gives log-probabilities after logit_bias, so token_ids says nothing; leave it out"
        )
    read, written = (sum(usage[part] for _, usage in sides) for part in (0, 1))
    return Reply(logprobs[0] - logprobs[1], read, written)


def _read_entries(body: bytes) -> tuple[list[Mapping[str, Any]], tuple[int, int]]:
    """Return the log-probabilities of the answer's tokens, and the tokens that were read and written."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise NoVerdict("the reply is not JSON") from None
    choice = _first(_get(reply, "choices"))
    if not isinstance(choice, Mapping):
        raise NoVerdict("the reply holds no choices")
    content = _get(_get(choice, "logprobs"), "content")
    entries = [entry for entry in content if isinstance(entry, Mapping)] if isinstance(content, list) else []
    if not entries:
        raise NoVerdict(
            "the reply holds no log-probabilities; the endpoint ignores logprobs, or its model does not give "
            "them"
        )
    usage = _get(reply, "usage")
    return entries, (_count(_get(usage, "prompt_tokens")), _count(_get(usage, "completion_tokens")))


def _says(entry: Mapping[str, Any], template: Words) -> bool:
    text = _get(entry, "token")
    return isinstance(text, str) and side_of(text, template) is not None


def side_of(token: str, template: Words) -> bool | None:
    """Say whether a token begins a harmful word (True), a harmless one (False) or neither.

    Case and marks around the word make no difference. The first letters of a word count if they begin words
    of one side only.
    """
    text = token.strip(_AROUND).casefold()
    if not text:
        return None
    begins = [
        any(word.strip(_AROUND).casefold().startswith(text) for word in side)
        for side in (template.harmful, template.harmless)
    ]
    return begins[0] if begins[0] != begins[1] else None


def _of_listed(listed: Sequence[tuple[str, float]], template: Words) -> float:
    """Return the logit of a list of likely tokens.

    A side that is not in the list gets the most that it can have: the rest of the probability, and no more
    than the least likely token of the list for each of its words.
    """
    masses = {True: 0.0, False: 0.0}
    for token, logprob in listed:
        side = side_of(token, template)
        if side is not None:
            masses[side] += math.exp(logprob)
    if not any(masses.values()):
        raise NoVerdict(
            f"none of the verdict words ({', '.join((*template.harmful, *template.harmless))}) is among the "
            f"{len(listed)} likeliest first tokens; the model answers in other words, so change the prompt "
            "or the words"
        )
    probabilities = [math.exp(logprob) for _, logprob in listed]
    rest, least = max(0.0, 1.0 - sum(probabilities)), min(probabilities)
    for side, words in ((True, template.harmful), (False, template.harmless)):
        masses[side] = max(_LEAST, masses[side] or min(rest, len(words) * least))
    return math.log(masses[True]) - math.log(masses[False])


def _of_chosen(chosen: tuple[str, float] | None, template: Words) -> float:
    """Return the logit of the chosen token alone.

    It is the likeliest one, so the other side has at most its probability, and at most the rest. The verdict
    takes the other side at that most. So it is exact where the words share all of the probability, and 0
    where nothing is sure.
    """
    if chosen is None:
        raise NoVerdict(_NOT_CHOSEN)
    side = side_of(chosen[0], template)
    if side is None:
        raise NoVerdict(
            f"the answer begins with none of the verdict words ({', '.join(template.harmful)}; "
            f"{', '.join(template.harmless)}), and the endpoint gives no alternatives"
        )
    logprob = chosen[1]
    rest = max(_LEAST, -math.expm1(min(logprob, 0.0)))
    surety = max(0.0, logprob - math.log(rest))
    return surety if side else -surety


def _token(entry: object) -> tuple[str, float] | None:
    text, logprob = _get(entry, "token"), _get(entry, "logprob")
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return (text, min(0.0, float(logprob))) if _NO_NUMBER < logprob < math.inf else None


def _get(found: object, name: str) -> Any:  # noqa: ANN401 - decoded JSON
    return found.get(name) if isinstance(found, Mapping) else None


def _first(found: object) -> object:
    return next(iter(found), None) if isinstance(found, list) and isinstance(found, Iterable) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
