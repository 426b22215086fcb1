"""The dialect of Anthropic's `/v1/messages`."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lockgate.exchanges import Message, json_type
from lockgate.gateway import _wire as wire
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway.upstream._dialect import Asked, Piece, Stopped
from lockgate.gateway.upstream._options import Media
from lockgate.gateway.upstream._script import AnswerScript, text_beside, text_of
from lockgate.gateway.upstream._texts import TextReader, flag, listed, whole_number, with_setup
from lockgate.gateway.upstream._wrong import (
    PassedError,
    checked_place,
    checked_reason,
    decoded,
    malformed,
    upstream_fault,
)

ROLES = ("user", "assistant", "system")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# Parts of a message that hold no text: sealed thoughts, and marks for a cache.
_SEALED = "redacted_thinking"
_BODY_FIELDS = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "container"}
)


# The known fields of each kind of event, block and delta. The text of all others is read beside them.
_EVENTS: Mapping[object, Collection[str]] = {
    "message_start": ("type", "message"),
    "content_block_start": ("type", "index", "content_block"),
    "content_block_delta": ("type", "index", "delta"),
    "content_block_stop": ("type", "index"),
    "message_delta": ("type", "delta", "usage"),
    "message_stop": ("type",),
    "ping": ("type",),
}
_BLOCKS: Mapping[object, Collection[str]] = {
    "text": ("type", "text"),
    "thinking": ("type", "thinking", "signature"),
    "tool_use": ("type", "id", "name", "input"),
    "redacted_thinking": ("type", "data"),
}
_DELTAS: Mapping[object, Collection[str]] = {
    "text_delta": ("type", "text"),
    "thinking_delta": ("type", "thinking"),
    "input_json_delta": ("type", "partial_json"),
    "signature_delta": ("type", "signature"),  # a seal, made for the upstream alone
}
_ENDING = ("stop_reason", "stop_sequence", "container")


class MessagesDialect:
    """Anthropic's messages, streamed and not."""

    path = "/messages"

    def read_request(self, payload: dict[str, Any], media: Media, most_choices: int) -> Asked:
        """See `Dialect.read_request`."""
        reader = TextReader(media)
        messages: list[Message] = []
        if payload.get("system") is not None:
            messages.append(Message("system", reader.content(payload["system"], "system")))
        turns = listed(payload, "messages")
        if not turns:
            raise invalid("messages", "at least one message is needed", "empty_array")
        for index, turn in enumerate(turns):
            messages += _turn(turn, f"messages[{index}]", reader)
        return Asked(
            messages=with_setup(messages, payload, listed(payload, "tools")),
            payload=payload,
            stream=flag(payload, "stream"),
            max_tokens=whole_number(payload, "max_tokens", 1),
            media=reader.media,
        )

    def open(self, asked: Asked) -> "MessagesTranscript":
        """See `Dialect.open`."""
        return MessagesTranscript(text_of(asked.payload.get("model")))

    def error(self, error: ApiError) -> dict[str, Any]:
        """See `Dialect.error`."""
        if isinstance(error, PassedError):
            return error.body()
        kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}


class MessagesTranscript:
    """One message as it passes. A halt ends it with the reason `refusal`, as Anthropic's own do."""

    def __init__(self, model: str) -> None:
        self._script = AnswerScript()
        self._started = False  # the head of the message has left
        self._open: int | None = None  # the block whose head has left, and whose end has not
        name = wire.completion_id().replace("chatcmpl-", "msg_")
        self._base: dict[str, Any] = {"id": name, "type": "message", "role": "assistant", "model": model}
        self.over = False

    def read(self, event: str, data: str) -> Sequence[Piece]:
        """See `Transcript.read`."""
        body = decoded(data)
        kind, text, mark, ended = body.get("type"), "", "", None
        if not isinstance(kind, str):
            raise malformed()
        checked_place(body.get("index"))
        match kind:
            case "error":
                raise upstream_fault()
            case "message_start":
                text, mark = self._message_text(body.get("message")), "start"
            case "content_block_start":
                text, mark = self._block(body.get("content_block"), body.get("index")), f"open {_place(body)}"
            case "content_block_delta":
                text = self._delta(body.get("delta"), body.get("index"))
            case "content_block_stop":
                mark = "close"
            case "message_delta":
                text, ended = self._ending(body.get("delta"))
            case "message_stop":
                # What else it holds comes after the end of all text.
                self.over, body = True, {"type": kind}
        text += self._more(body, _EVENTS)
        choice = 0 if text or kind not in ("ping", "message_stop") else None
        return (Piece(choice, text, _sse(kind, body), ended, mark),)

    def left(self, piece: Piece) -> None:
        """See `Transcript.left`."""
        if piece.mark == "start":
            self._started = True
        elif piece.mark == "close":
            self._open = None
        elif piece.mark:
            self._open = int(piece.mark.removeprefix("open "))

    def leave(self, choice: int) -> str:
        """See `Transcript.leave`."""
        return self._script.end()

    def halt(self, choice: int, stopped: Stopped) -> bytes:
        """See `Transcript.halt`."""
        events: list[dict[str, Any]] = []
        use = {"input_tokens": stopped.prompt_tokens, "output_tokens": stopped.completion_tokens}
        if not self._started:
            head = {**self._base, "content": [], "stop_reason": None, "stop_sequence": None, "usage": use}
            events.append({"type": "message_start", "message": head})
        if self._open is not None:
            events.append({"type": "content_block_stop", "index": self._open})
        delta = {"stop_reason": "refusal", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": use})
        events.append({"type": "message_stop"})
        return b"".join(_sse(event["type"], event) for event in events)

    def close(self, stopped: Stopped | None) -> bytes:
        """See `Transcript.close`."""
        return b""

    def fail(self, error: ApiError) -> bytes:
        """See `Transcript.fail`."""
        return _sse("error", MessagesDialect().error(error))

    def read_whole(self, body: dict[str, Any]) -> Sequence[tuple[int, str]]:
        """See `Transcript.read_whole`."""
        if body.get("type") == "error":
            raise upstream_fault()
        if not isinstance(body.get("content"), list):
            raise malformed()
        return [(0, self._message_text(body))]

    def stop_whole(self, body: dict[str, Any] | None, stopped: dict[int, Stopped]) -> dict[str, Any]:
        """See `Transcript.stop_whole`."""
        why = stopped[0]
        use = {"input_tokens": why.prompt_tokens, "output_tokens": why.completion_tokens}
        whole = body or {**self._base, "usage": use}
        whole = {key: whole[key] for key in whole if key in _BODY_FIELDS}
        return {**whole, "content": [], "stop_reason": "refusal", "stop_sequence": None}

    def _message_text(self, message: object) -> str:
        if not isinstance(message, dict):
            raise malformed()
        self._base.update({key: message[key] for key in ("id", "model") if isinstance(message.get(key), str)})
        checked_reason(message.get("stop_reason"))
        blocks = message.get("content") or []
        if not isinstance(blocks, list):
            raise malformed()
        text = "".join(self._block(block, index) for index, block in enumerate(blocks))
        return text + self._script.text("more", text_beside(message, _BODY_FIELDS))

    def _block(self, block: object, index: object) -> str:
        """Return the text of a content block, as it begins or as a whole."""
        if not isinstance(block, dict):
            raise malformed()
        text = ""
        match block.get("type"):
            case "text":
                text = self._script.text("content", text_of(block.get("text")))
            case "thinking":
                text = self._script.text("thinking", text_of(block.get("thinking")))
            case "tool_use":
                given = text_of(block.get("input"))
                text = self._script.call(index, text_of(block.get("id")), text_of(block.get("name")), given)
        return text + self._more(block, _BLOCKS)

    def _delta(self, delta: object, index: object) -> str:
        if not isinstance(delta, dict):
            raise malformed()
        text = ""
        match delta.get("type"):
            case "text_delta":
                text = self._script.text("content", text_of(delta.get("text")))
            case "thinking_delta":
                text = self._script.text("thinking", text_of(delta.get("thinking")))
            case "input_json_delta":
                text = self._script.call(index, arguments=text_of(delta.get("partial_json")))
        return text + self._more(delta, _DELTAS)

    def _more(self, fields: Mapping[str, Any], known: Mapping[object, Collection[str]]) -> str:
        """Return the text of the fields that are not known of their kind; of all, if it is not known."""
        kind = fields.get("type")
        names = known.get(kind) if isinstance(kind, str) else None
        return self._script.text("more", text_of(fields) if names is None else text_beside(fields, names))

    def _ending(self, delta: object) -> tuple[str, str | None]:
        """Return the text beside the reason for the end, and the reason."""
        if not isinstance(delta, dict):
            raise malformed()
        more = self._script.text("more", text_beside(delta, _ENDING))
        return more, checked_reason(delta.get("stop_reason"))


def _place(body: Mapping[str, Any]) -> int:
    place = body.get("index")
    if isinstance(place, bool) or not isinstance(place, int):
        raise malformed()
    return place


def _sse(name: str, body: Mapping[str, Any]) -> bytes:
    if not name.isidentifier():
        raise malformed()
    return f"event: {name}\n".encode() + wire.sse(body)


def _turn(turn: object, where: str, reader: TextReader) -> list[Message]:
    """Return the messages of a turn. Results of tools in a user's turn are not the user's words."""
    if not isinstance(turn, dict):
        raise invalid(where, f"expected an object with role and content, found {json_type(turn)}")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise invalid(f"{where}.role", "expected user or assistant")
    if not isinstance(content, list):
        return [Message(str(role), reader.content(content, f"{where}.content"))]
    messages: list[Message] = []
    text, calls = "", []
    for index, block in enumerate(content):
        place = f"{where}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            messages.append(Message("tool", reader.content(block.get("content"), f"{place}.content")))
        elif kind == "tool_use":
            given = json.dumps(block.get("input"), ensure_ascii=False)
            function = {"name": text_of(block.get("name")), "arguments": given}
            calls.append({"id": text_of(block.get("id")), "type": "function", "function": function})
        elif kind == "document" and (source := _plain_source(block)) is not None:
            text += source
        elif kind == "compaction":
            text += text_of(block.get("content"))
        elif kind != _SEALED:
            text += reader.part(block, place)
    if text or calls or not messages:
        messages.append(Message(str(role), text, tool_calls=tuple(calls) or None))
    return messages


def _plain_source(block: Mapping[str, Any]) -> str | None:
    """Return the text of a document that is given as text; None if it is a file."""
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") != "text":
        return None
    titles = "".join(text_of(block.get(key)) + "\n" for key in ("title", "context") if block.get(key))
    return titles + text_of(source.get("data"))
