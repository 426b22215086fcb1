"""The text of one answer as the guard reads it, from the parts in which an upstream writes it.

Content is read as it is. Other text (reasoning, refusals, fields that nobody has heard of) follows after an
empty line. Tool calls are read as JSON, in the form in which `lockgate.backbones` reads them in files.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

_CONTENT = "content"
# A longer name of a field is text.
LONGEST_NAME = 64


class AnswerScript:
    """Turns parts of an answer into text to score. Each method returns the text that is new."""

    def __init__(self) -> None:
        self._channel: str | None = None
        self._call: object = None
        self._calls = 0

    def text(self, channel: str, text: str) -> str:
        """Take text of a channel: `content`, `reasoning_content`, `refusal` or any other field's name."""
        if not text:
            return ""
        before = self._close_calls()
        if self._channel not in (None, channel):
            before += "\n\n"
        self._channel = channel
        return before + text

    def call(self, key: object, call_id: str = "", name: str = "", arguments: str = "") -> str:
        """Take a part of a tool call.

        Args:
            key: tells calls apart. A part with another key than the one before begins a new call.
            call_id, name: of the call. In a later part, they are read as further text.
            arguments: the part's piece of the arguments, as JSON text.
        """
        if key != self._call:
            return self._open_call(key, call_id, name) + _escape(arguments)
        return _escape(call_id + name + arguments)

    def end(self) -> str:
        """Return what closes the text."""
        return self._close_calls()

    def _open_call(self, key: object, call_id: str, name: str) -> str:
        opening = "[" if self._channel is None else "\n["
        before = opening if self._call is None else '"}}, '
        self._call, self._calls = key, self._calls + 1
        self._channel = "tool_calls"
        identity = f'"id": {_quote(call_id)}, ' if call_id else ""
        return f'{before}{{{identity}"type": "function", "function": {{"name": {_quote(name)}, "arguments": "'

    def _close_calls(self) -> str:
        closing = "" if self._call is None else '"}}]'
        self._call = None
        return closing


def text_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a field that no rule knows as text: text as it is, everything else as JSON."""
    if value is None or value == [] or value == {}:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def named_text(name: str, value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the text of a field that no rule knows, and its name if that is too long to be one."""
    return (name if len(name) > LONGEST_NAME else "") + text_of(value)


def text_beside(fields: Mapping[str, Any], known: Collection[str]) -> str:
    """Return the text of all fields that are not `known`."""
    return "".join(named_text(name, value) for name, value in fields.items() if name not in known)


def holds_text(value: object) -> bool:
    """Tell whether there is any text in a JSON value."""
    if isinstance(value, dict):
        return any(len(name) > LONGEST_NAME or holds_text(item) for name, item in value.items())
    return any(map(holds_text, value)) if isinstance(value, list) else isinstance(value, str) and value != ""


def without_text(value: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the fields that are `known` or hold no text."""
    return {key: item for key, item in value.items() if key in known or not holds_text({key: item})}


def repeats(entries: object, text: object) -> bool:
    """Tell whether the entries of log-probabilities hold no other text than the one that they belong to."""
    if not isinstance(entries, list) or not all(map(_is_chosen, entries)):
        return False
    return "".join(entry["token"] for entry in entries) == (text or "")


def _is_chosen(entry: object) -> bool:
    """Tell whether an entry holds its token and numbers, and no alternatives."""
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return False
    rest = {key: value for key, value in entry.items() if key not in ("token", "bytes")}
    # The bytes could spell another text.
    spelled = entry.get("bytes") in (None, list(entry["token"].encode()))
    return spelled and not entry.get("top_logprobs") and not holds_text(rest)


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
