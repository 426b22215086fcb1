"""The dialect of `/v1/chat/completions`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lockgate.exchanges import Message, json_type
from lockgate.gateway import _wire as wire
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway.upstream._dialect import Asked, Piece, Stopped
from lockgate.gateway.upstream._options import Media
from lockgate.gateway.upstream._script import (
    AnswerScript,
    named_text,
    repeats,
    text_beside,
    text_of,
    without_text,
)
from lockgate.gateway.upstream._texts import (
    IDS_REFUSED,
    TextReader,
    calls_of,
    flag,
    listed,
    name_of,
    refuse_fields,
    whole_number,
    with_setup,
)
from lockgate.gateway.upstream._wrong import (
    checked_place,
    checked_reason,
    decoded,
    malformed,
    upstream_fault,
)

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Alternatives to the chosen tokens would leave unscored.
REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    **IDS_REFUSED,
    "top_logprobs": ("alternatives to the chosen tokens would leave unscored", (None, 0)),
    "prompt_logprobs": ("alternatives to the prompt's tokens would leave unscored", (None, 0)),
    "audio": ("audio answers can't be scored", (None,)),
    "chat_template": ("the model would read another conversation than the guard", (None,)),
    "documents": ("the guard does not read them here; put their text into a message", (None, [])),
    "modalities": ("answers other than text can't be scored", (None, ["text"])),
}
# Fields of a message or delta that hold no text of the answer.
_PLAIN = frozenset({"role", "index"})


class ChatDialect:
    """Chat completions, streamed and not."""

    path = "/chat/completions"

    def read_request(self, payload: dict[str, Any], media: Media, most_choices: int) -> Asked:
        """See `Dialect.read_request`."""
        refuse_fields(payload, REFUSED)
        reader = TextReader(media)
        messages = [
            _message(item, f"messages[{index}]", reader)
            for index, item in enumerate(listed(payload, "messages"))
        ]
        if not messages:
            raise invalid("messages", "at least one message is needed", "empty_array")
        if (predicted := payload.get("prediction")) is not None:
            messages.append(_prediction(predicted, reader))
        tools = [*listed(payload, "tools"), *listed(payload, "functions")]
        limits = [whole_number(payload, name, 1) for name in ("max_completion_tokens", "max_tokens")]
        known = [limit for limit in limits if limit is not None]
        return Asked(
            messages=with_setup(messages, payload, tools),
            payload=payload,
            stream=flag(payload, "stream"),
            choices=whole_number(payload, "n", 1, most_choices) or 1,
            max_tokens=min(known) if known else None,
            media=reader.media,
        )

    def open(self, asked: Asked) -> "ChatTranscript":
        """See `Dialect.open`."""
        options = asked.payload.get("stream_options")
        usage = isinstance(options, dict) and options.get("include_usage") is True
        return ChatTranscript(asked.choices, str(asked.payload.get("model", "")), usage=usage)

    def error(self, error: ApiError) -> dict[str, Any]:
        """See `Dialect.error`."""
        return error.body()


class ChatTranscript:
    """One chat completion as it passes.

    Args:
        choices: number of choices that were asked for.
        model: name of the model, for events before the upstream has named it.
        usage: whether the client wants an event with the usage at the end.
    """

    def __init__(self, choices: int, model: str, *, usage: bool) -> None:
        self._choices = choices
        self._usage = usage
        self._usage_seen = False
        self._scripts: dict[int, AnswerScript] = {}
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._base: dict[str, Any] = {
            "id": wire.completion_id(),
            "created": int(time.time()),
            "model": model,
        }
        self.over = False

    def read(self, event: str, data: str) -> Sequence[Piece]:
        """See `Transcript.read`."""
        if data.strip() == "[DONE]":
            self.over = True
            return ()
        chunk = decoded(data)
        if chunk.get("error") is not None:
            raise upstream_fault()
        choices = chunk.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(item, dict) for item in choices):
            raise malformed()
        self._base.update({key: chunk[key] for key in self._base if chunk.get(key) is not None})
        if not choices and len(self._ended) == self._choices:  # no text can follow
            chunk = without_text(chunk, _CHUNK_FIELDS)
        beyond = text_beside(chunk, _CHUNK_FIELDS)
        if not choices:
            mark = "usage" if chunk.get("usage") is not None else ""
            return (Piece(0 if beyond else None, beyond, wire.sse({**chunk, "choices": []}), None, mark),)
        return list(self._pieces(chunk, choices, beyond))

    def _pieces(self, chunk: dict[str, Any], choices: list[dict[str, Any]], beyond: str) -> Iterator[Piece]:
        for item in choices:
            number = self._number(item)
            if number in self._ended:
                continue  # a second end, or text after the end, says nothing that was asked for
            delta = item.get("delta") or {}
            # Clients fail at a choice without these.
            whole = {**item, "index": number, "delta": delta}
            text = self._delta_text(number, delta)
            text += self._around(number, item, "delta") + self._text(number, "more", beyond)
            reason = checked_reason(item.get("finish_reason"))
            if reason is not None:
                self._ended.add(number)
            yield Piece(number, text, wire.sse({**chunk, "choices": [whole]}), reason)

    def _number(self, item: Mapping[str, Any]) -> int:
        number = item.get("index", 0)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self._choices:
            raise malformed()
        return number

    def _delta_text(self, choice: int, delta: object) -> str:
        if not isinstance(delta, dict):
            raise malformed()
        script = self._script(choice)
        text = ""
        for key, value in delta.items():
            if key == "tool_calls":
                text += "".join(_call_text(script, call, place) for place, call in enumerate(_calls(value)))
            elif key == "function_call" and isinstance(value, dict):
                text += script.call("function_call", "", *_name_and_arguments(value))
            elif key not in _PLAIN:
                text += script.text(key, named_text(key, value))
        return text

    def _around(self, choice: int, item: Mapping[str, Any], own: str) -> str:
        """Return the text beside a delta or message: unknown fields, and log-probabilities that tell more.

        Args:
            own: the field with the delta or message. Some upstreams send both.
        """
        text = self._text(choice, "more", text_beside(item, {*_CHOICE_FIELDS, own}))
        delta = item.get(own)
        content = delta.get("content") if isinstance(delta, dict) else None
        if (logprobs := item.get("logprobs")) is not None and not _repeats(logprobs, content):
            text += self._text(choice, "logprobs", text_of(logprobs))
        return text

    def _text(self, choice: int, channel: str, text: str) -> str:
        return self._script(choice).text(channel, text)

    def _script(self, choice: int) -> AnswerScript:
        return self._scripts.setdefault(choice, AnswerScript())

    def left(self, piece: Piece) -> None:
        """See `Transcript.left`."""
        self._usage_seen = self._usage_seen or piece.mark == "usage"
        if piece.choice is not None:
            self._begun.add(piece.choice)

    def leave(self, choice: int) -> str:
        """See `Transcript.leave`."""
        script = self._scripts.get(choice)
        return "" if script is None else script.end()

    def halt(self, choice: int, stopped: Stopped) -> bytes:
        """See `Transcript.halt`."""
        events = []
        base = {**self._base, "usage": None} if self._usage else self._base
        if choice not in self._begun:
            events.append(wire.chunk(base, choice, {"role": "assistant", "content": ""}))
        events.append(wire.chunk(base, choice, {"refusal": stopped.refusal}))
        events.append(wire.chunk(base, choice, {}, finish_reason="content_filter"))
        return b"".join(map(wire.sse, events))

    def close(self, stopped: Stopped | None) -> bytes:
        """See `Transcript.close`."""
        tail = b""
        if self._usage and not self._usage_seen and stopped is not None:
            tail = wire.sse(wire.usage_chunk(self._base, stopped.prompt_tokens, stopped.completion_tokens))
        return tail + wire.DONE

    def fail(self, error: ApiError) -> bytes:
        """See `Transcript.fail`."""
        return wire.sse(error.body()) + wire.DONE

    def read_whole(self, body: dict[str, Any]) -> Sequence[tuple[int, str]]:
        """See `Transcript.read_whole`."""
        if body.get("error") is not None:
            raise upstream_fault()
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise malformed()
        texts: list[tuple[int, str]] = []
        for item in choices:
            if not isinstance(item, dict):
                raise malformed()
            number = self._number(item)
            checked_reason(item.get("finish_reason"))
            text = self._delta_text(number, item.get("message") or {})
            texts.append((number, text + self._around(number, item, "message")))
        if len({number for number, _ in texts}) < len(texts):
            raise malformed()
        beyond = text_beside(body, _CHUNK_FIELDS)
        return [(number, text + self._text(number, "more", beyond)) for number, text in texts]

    def stop_whole(self, body: dict[str, Any] | None, stopped: dict[int, Stopped]) -> dict[str, Any]:
        """See `Transcript.stop_whole`."""
        first = next(iter(stopped.values()))
        found = {} if body is None else {item["index"]: item for item in body["choices"] if "index" in item}
        choices = [
            _emptied(number, stopped[number]) if number in stopped else found[number]
            for number in sorted({*found, *stopped})
        ]
        whole = body or {
            **self._base,
            "object": "chat.completion",
            "usage": wire.usage(first.prompt_tokens, first.completion_tokens),
        }
        return {**{key: whole[key] for key in whole if key in _CHUNK_FIELDS}, "choices": choices}


def _repeats(logprobs: object, content: object) -> bool:
    """Tell whether log-probabilities hold no other text than the content that they belong to."""
    if not isinstance(logprobs, dict) or set(logprobs) - {"content", "refusal"} or logprobs.get("refusal"):
        return False
    return repeats(logprobs.get("content") or [], content)


_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "refusal")
_CHUNK_FIELDS = frozenset(
    {
        *("id", "object", "created", "model", "system_fingerprint", "service_tier", "usage", "choices"),
        *("timings", "kv_transfer_params", "prompt_token_ids", "provider"),
    }
)
_CHOICE_FIELDS = frozenset({"index", "finish_reason", "logprobs", "stop_reason", "token_ids"})


def _emptied(number: int, stopped: Stopped) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": stopped.refusal}
    return {"index": number, "message": message, "logprobs": None, "finish_reason": "content_filter"}


def _message(value: object, where: str, reader: TextReader) -> Message:
    if not isinstance(value, dict):
        raise invalid(where, f"expected an object with role and content, found {json_type(value)}")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{where}.role", f"expected one of {', '.join(ROLES)}")
    text = reader.content(value.get("content"), f"{where}.content")
    if role == "assistant":
        thoughts = [text_of(value.get(key)) for key in _THOUGHTS]
        text = "\n\n".join(part for part in (*thoughts, text) if part)
        if value.get("audio") is not None:
            reader.skip_media(f"{where}.audio")
    calls = calls_of(value.get("tool_calls"), f"{where}.tool_calls")
    if isinstance(old := value.get("function_call"), dict):
        calls = (*calls, {"type": "function", "function": old})
    return Message(ROLES[role], text, name_of(value, where), calls or None)


def _prediction(value: object, reader: TextReader) -> Message:
    """A predicted answer is the user's text: it may come back as the answer, and is scored again then."""
    if not isinstance(value, dict):
        raise invalid("prediction", f"expected an object, found {json_type(value)}")
    return Message("user", reader.content(value.get("content"), "prediction.content"))


def _calls(value: object) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise malformed()
    return value or []


def _call_text(script: AnswerScript, call: object, place: int) -> str:
    if not isinstance(call, dict):
        raise malformed()
    function = call.get("function")
    number = checked_place(call.get("index", place))
    if isinstance(function, dict):
        name, arguments = _name_and_arguments(function)
        arguments += text_beside(call, {*_CALL_FIELDS, "function"})
    else:
        # A custom tool's call has its input in another field.
        name, arguments = "", text_of({k: v for k, v in call.items() if k not in _CALL_FIELDS})
    return script.call(number, text_of(call.get("id")), name, arguments)


_CALL_FIELDS = frozenset({"id", "index", "type"})


def _name_and_arguments(function: Mapping[str, Any]) -> tuple[str, str]:
    """Return a function's name, and its arguments with whatever else it holds."""
    more = text_beside(function, ("name", "arguments"))
    return text_of(function.get("name")), text_of(function.get("arguments")) + more
