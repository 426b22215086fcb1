"""The dialect of `/v1/responses`: how its requests are read. `_responses_answer` reads its answers."""

from collections.abc import Mapping
from typing import Any

from lockgate.exchanges import Message, json_type
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway.upstream._dialect import Asked
from lockgate.gateway.upstream._options import Media
from lockgate.gateway.upstream._responses_answer import ResponsesTranscript
from lockgate.gateway.upstream._script import text_of
from lockgate.gateway.upstream._texts import (
    TextReader,
    flag,
    listed,
    refuse_fields,
    whole_number,
    with_setup,
)

_UNSEEN = "the guard can't see what is kept elsewhere; send the whole conversation as input"
REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "previous_response_id": (_UNSEEN, (None,)),
    "conversation": (_UNSEEN, (None,)),
    "prompt": (_UNSEEN, (None,)),
    "background": ("an answer in the background would leave unscored", (None, False)),
    "top_logprobs": ("alternatives to the chosen tokens would leave unscored", (None, 0)),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})


class ResponsesDialect:
    """OpenAI's responses, streamed and not."""

    path = "/responses"

    def read_request(self, payload: dict[str, Any], media: Media, most_choices: int) -> Asked:
        """See `Dialect.read_request`."""
        refuse_fields(payload, REFUSED)
        reader = TextReader(media)
        messages: list[Message] = []
        if payload.get("instructions") is not None:
            messages.append(Message("system", reader.content(payload["instructions"], "instructions")))
        given = payload.get("input")
        if isinstance(given, str):
            messages.append(Message("user", given))
        else:
            items = listed(payload, "input")
            if not items:
                raise invalid("input", "expected text or a list of items")
            messages += [_item(item, f"input[{index}]", reader) for index, item in enumerate(items)]
        return Asked(
            messages=with_setup(messages, payload, listed(payload, "tools")),
            payload=payload,
            stream=flag(payload, "stream"),
            max_tokens=whole_number(payload, "max_output_tokens", 1),
            media=reader.media,
        )

    def open(self, asked: Asked) -> ResponsesTranscript:
        """See `Dialect.open`."""
        return ResponsesTranscript(text_of(asked.payload.get("model")))

    def error(self, error: ApiError) -> dict[str, Any]:
        """See `Dialect.error`."""
        return error.body()


def _item(item: object, where: str, reader: TextReader) -> Message:
    if not isinstance(item, dict):
        raise invalid(where, f"expected an object, found {json_type(item)}")
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise invalid(f"{where}.type", f"expected text, found {json_type(kind)}")
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise invalid(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
        return Message(_ROLES[role], reader.content(item.get("content"), f"{where}.content"))
    if kind in _CALLS:
        function = {"name": text_of(item.get("name")), "arguments": text_of(item.get(_CALLS[kind]))}
        call = {"id": text_of(item.get("call_id")), "type": "function", "function": function}
        return Message("assistant", "", tool_calls=(call,))
    if kind in _RESULTS:
        return Message("tool", reader.content(item.get("output"), f"{where}.output"))
    if kind == "reasoning":
        texts = [reader.content(item.get(name), f"{where}.{name}") for name in ("summary", "content")]
        return Message("assistant", "".join(texts))
    raise invalid(f"{where}.type", "is an item that the guard can't read", "unsupported_value")
