"""The dialect of `/v1/completions`: a prompt of text, and its continuation."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lockgate.exchanges import Message, json_type
from lockgate.gateway import _wire as wire
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway.upstream._dialect import Asked, Piece, Stopped
from lockgate.gateway.upstream._options import Media
from lockgate.gateway.upstream._script import AnswerScript, holds_text, text_beside, text_of, without_text
from lockgate.gateway.upstream._texts import IDS_REFUSED, flag, refuse_fields, whole_number, with_setup
from lockgate.gateway.upstream._wrong import checked_reason, decoded, malformed, upstream_fault

REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    **IDS_REFUSED,
    "logprobs": ("alternatives to the chosen tokens would leave unscored", (None, 0)),
    "prompt_logprobs": ("alternatives to the prompt's tokens would leave unscored", (None, 0)),
    "prompt_embeds": ("the model would read what the guard does not", (None, [])),
    "best_of": ("the best of several answers can't be streamed through the guard", (None, 1)),
}
_BODY_FIELDS = frozenset(
    {"id", "object", "created", "model", "system_fingerprint", "service_tier", "usage", "choices", "timings"}
)
_CHOICE_FIELDS = frozenset({"index", "text", "finish_reason", "stop_reason", "logprobs"})


class CompletionsDialect:
    """Text completions, streamed and not. The prompt and its suffix count as the user's text."""

    path = "/completions"

    def read_request(self, payload: dict[str, Any], media: Media, most_choices: int) -> Asked:
        """See `Dialect.read_request`."""
        refuse_fields(payload, REFUSED)
        messages = [Message("user", _prompt(payload.get("prompt")))]
        suffix = payload.get("suffix")
        if suffix is not None:
            if not isinstance(suffix, str):
                raise invalid("suffix", f"expected text, found {json_type(suffix)}")
            messages.append(Message("user", suffix))
        return Asked(
            messages=with_setup(messages, payload),
            payload=payload,
            stream=flag(payload, "stream"),
            choices=whole_number(payload, "n", 1, most_choices) or 1,
            max_tokens=whole_number(payload, "max_tokens", 1),
        )

    def open(self, asked: Asked) -> "CompletionsTranscript":
        """See `Dialect.open`."""
        return CompletionsTranscript(asked.choices, text_of(asked.payload.get("model")))

    def error(self, error: ApiError) -> dict[str, Any]:
        """See `Dialect.error`."""
        return error.body()


class CompletionsTranscript:
    """One text completion as it passes. A halt ends it with the reason `content_filter` and no refusal text.

    The API has no field for a refusal.
    """

    def __init__(self, choices: int, model: str) -> None:
        self._choices = choices
        self._scripts = [AnswerScript() for _ in range(choices)]
        self._ended: set[int] = set()
        self._base: dict[str, Any] = {
            "id": wire.completion_id().replace("chatcmpl", "cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self.over = False

    def read(self, event: str, data: str) -> Sequence[Piece]:
        """See `Transcript.read`."""
        if data.strip() == "[DONE]":
            self.over = True
            return ()
        body = decoded(data)
        choices = self._choices_of(body)
        self._base.update({key: body[key] for key in self._base if body.get(key) is not None})
        if not choices:
            if len(self._ended) == self._choices:  # no text can follow
                body = without_text(body, _BODY_FIELDS)
            beyond = _beyond(body)
            return (Piece(0 if beyond else None, beyond, wire.sse({**body, "choices": []})),)
        pieces = []
        for item in choices:
            number = self._number(item)
            if number not in self._ended:
                pieces.append(self._piece(body, item, number))
        return pieces

    def _piece(self, body: dict[str, Any], item: dict[str, Any], number: int) -> Piece:
        reason = checked_reason(item.get("finish_reason"))
        if reason is not None:
            self._ended.add(number)
        whole = {**item, "index": number, "text": item.get("text") or ""}
        text = self._text(number, item) + self._scripts[number].text("more", _beyond(body))
        return Piece(number, text, wire.sse({**body, "choices": [whole]}), reason)

    def left(self, piece: Piece) -> None:
        """See `Transcript.left`."""

    def leave(self, choice: int) -> str:
        """See `Transcript.leave`."""
        return ""

    def halt(self, choice: int, stopped: Stopped) -> bytes:
        """See `Transcript.halt`."""
        return wire.sse({**self._base, "choices": [_emptied(choice)]})

    def close(self, stopped: Stopped | None) -> bytes:
        """See `Transcript.close`."""
        return wire.DONE

    def fail(self, error: ApiError) -> bytes:
        """See `Transcript.fail`."""
        return wire.sse(error.body()) + wire.DONE

    def read_whole(self, body: dict[str, Any]) -> Sequence[tuple[int, str]]:
        """See `Transcript.read_whole`."""
        choices = self._choices_of(body)
        if not choices:
            raise malformed()
        beyond = _beyond(body)
        for item in choices:
            checked_reason(item.get("finish_reason"))
        texts = [(self._number(item), self._text(self._number(item), item) + beyond) for item in choices]
        if len({number for number, _ in texts}) < len(texts):
            raise malformed()
        return texts

    def stop_whole(self, body: dict[str, Any] | None, stopped: dict[int, Stopped]) -> dict[str, Any]:
        """See `Transcript.stop_whole`."""
        first = next(iter(stopped.values()))
        found = {} if body is None else {self._number(item): item for item in body["choices"]}
        choices = [
            _emptied(number) if number in stopped else found[number] for number in sorted({*found, *stopped})
        ]
        use = wire.usage(first.prompt_tokens, first.completion_tokens)
        whole = body or {**self._base, "usage": use}
        return {**{key: whole[key] for key in whole if key in _BODY_FIELDS}, "choices": choices}

    def _choices_of(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if body.get("error") is not None:
            raise upstream_fault()
        choices = body.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(item, dict) for item in choices):
            raise malformed()
        return choices

    def _number(self, item: Mapping[str, Any]) -> int:
        number = item.get("index", 0)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self._choices:
            raise malformed()
        return number

    def _text(self, number: int, item: Mapping[str, Any]) -> str:
        script = self._scripts[number]
        text = script.text("text", text_of(item.get("text")))
        if not _repeats(item.get("logprobs"), item.get("text")):
            text += script.text("logprobs", text_of(item.get("logprobs")))
        return text + script.text("more", text_beside(item, _CHOICE_FIELDS))


def _prompt(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value
    raise invalid(
        "prompt",
        "expected one text; the guard reads neither token ids nor several prompts in one request",
        "unsupported_value",
    )


def _repeats(logprobs: object, text: object) -> bool:
    """Tell whether log-probabilities hold no other text than the choice that they belong to."""
    if not isinstance(logprobs, dict):
        return False
    tokens = logprobs.get("tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return False
    # Alternatives are objects whose keys are the texts. The chosen token may be the only one.
    tops = logprobs.get("top_logprobs") or []
    if not isinstance(tops, list) or len(tops) > len(tokens):
        return False
    if not all(_is_chosen(top, token) for top, token in zip(tops, tokens, strict=False)):
        return False
    rest = {key: value for key, value in logprobs.items() if key not in ("tokens", "top_logprobs")}
    return "".join(tokens) == (text or "") and set(rest) <= _LOGPROBS and not holds_text(rest)


_LOGPROBS = frozenset({"token_logprobs", "text_offset"})


def _is_chosen(top: object, token: str) -> bool:
    """Tell whether a token's alternatives are none, or the token alone with its number."""
    if top is None:
        return True
    return isinstance(top, dict) and set(top) <= {token} and not any(map(holds_text, top.values()))


def _beyond(body: Mapping[str, Any]) -> str:
    return text_beside(body, _BODY_FIELDS)


def _emptied(number: int) -> dict[str, Any]:
    return {"index": number, "text": "", "logprobs": None, "finish_reason": "content_filter"}
