"""Check the fields of a chat completion request.

A `ChatRequest` holds only what the answer needs. Nothing of an ignored field is kept.

`HONOURED`, `IGNORED` and `REFUSED` say what happens to each field. Unknown ones are ignored, since OpenAI
clients often send new ones.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lockgate.exchanges import Message, json_type
from lockgate.gateway._errors import invalid
from lockgate.gateway._fields import (
    HONOURED,
    LONGEST_MODEL_NAME,
    LONGEST_STOP,
    MAX_BIAS,
    MAX_SEED,
    MAX_STOPS,
    NUMBERS,
    check_fields,
)
from lockgate.gateway._messages import parse_messages
from lockgate.gateway._sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. `max_tokens=None` means the server's default.

    `seed_basis` is a hash of the fields that the random seed depends on.
    """

    messages: tuple[Message, ...]
    n: int
    max_tokens: int | None
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    sampling: SamplingParams
    seed_basis: str


def parse_chat_request(payload: dict[str, Any], *, vocabulary_size: int, max_choices: int) -> ChatRequest:
    """Check a decoded body. Raises ApiError (400) naming the field at fault."""
    messages = parse_messages(payload.get("messages"))
    check_fields(payload)
    # One model is served, under any name, so that clients with a fixed model name work too.
    model = payload.get("model")
    model = "" if model is None else model
    if not isinstance(model, str):
        raise invalid("model", f"expected text, found {json_type(model)}")
    if len(model) > LONGEST_MODEL_NAME:
        raise invalid("model", f"is longer than {LONGEST_MODEL_NAME} characters")
    n = _integer(payload, "n", 1, low=1, high=max_choices) or 1
    stream = _boolean(payload, "stream")
    return ChatRequest(
        messages=messages,
        n=n,
        max_tokens=_max_tokens(payload),
        stops=_stops(payload.get("stop")),
        stream=stream,
        include_usage=_include_usage(payload.get("stream_options"), stream=stream),
        sampling=_sampling(payload, vocabulary_size),
        seed_basis=_seed_basis(payload),
    )


def _sampling(payload: Mapping[str, Any], vocabulary_size: int) -> SamplingParams:
    return SamplingParams(
        temperature=_number(payload, "temperature"),
        top_p=_number(payload, "top_p"),
        top_k=max(0, _integer(payload, "top_k", 0, low=-1, high=vocabulary_size) or 0),
        seed=_integer(payload, "seed", None, low=-MAX_SEED - 1, high=MAX_SEED),
        presence_penalty=_number(payload, "presence_penalty"),
        frequency_penalty=_number(payload, "frequency_penalty"),
        logit_bias=_logit_bias(payload.get("logit_bias"), vocabulary_size),
        logprobs=_boolean(payload, "logprobs"),
    )


def _seed_basis(payload: Mapping[str, Any]) -> str:
    """Hash the fields that the random seed depends on: those that are honoured, but for delivery."""
    basis = {key: payload[key] for key in HONOURED - {"stream", "stream_options"} if key in payload}
    return hashlib.sha256(msgspec.json.encode(basis, order="sorted")).hexdigest()


def _max_tokens(payload: Mapping[str, Any]) -> int | None:
    values = [_integer(payload, name, None, low=1) for name in ("max_completion_tokens", "max_tokens")]
    given = [value for value in values if value is not None]
    return min(given) if given else None


def _stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("stop", "expected text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise invalid("stop", f"expected at most {MAX_STOPS} strings, found {len(stops)}")
    if not all(stops):
        raise invalid("stop", "an empty string would stop before the first token; leave it out")
    if max(map(len, stops), default=0) > LONGEST_STOP:
        raise invalid("stop", f"a string is longer than {LONGEST_STOP} characters")
    return tuple(stops)


def _include_usage(value: object, *, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise invalid("stream_options", f"expected an object, found {json_type(value)}")
    if not stream:
        raise invalid("stream_options", "is only allowed when stream is true")
    return _boolean(value, "include_usage", "stream_options.include_usage")


def _logit_bias(value: object, vocabulary_size: int) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("logit_bias", f"expected an object of token id to bias, found {json_type(value)}")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary_size):
            raise invalid("logit_bias", f"keys must be token ids from 0 to {vocabulary_size - 1}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise invalid("logit_bias", f"values must be numbers from {-MAX_BIAS} to {MAX_BIAS}")
        biases[int(key)] = float(bias)
    return biases


def _number(payload: Mapping[str, Any], name: str) -> float:
    default, low, high = NUMBERS[name]
    value = payload.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, f"expected a number from {low} to {high}, found {json_type(value)}")
    if not low <= value <= high:  # NaN is in no range
        raise invalid(name, f"expected a number from {low} to {high}")
    return float(value)


def _integer(
    payload: Mapping[str, Any], name: str, default: int | None, *, low: int, high: int | None = None
) -> int | None:
    value = payload.get(name)
    if value is None:
        return default
    wanted = (
        f"expected a whole number of at least {low}"
        if high is None
        else (f"expected a whole number from {low} to {high}")
    )
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"{wanted}, found {json_type(value)}")
    if value < low or (high is not None and value > high):
        raise invalid(name, wanted)
    return value


def _boolean(payload: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    value = payload.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(param or name, f"expected true or false, found {json_type(value)}")
    return value
