"""Fields of a record: the text of a message's `content`, and how messages name types and keys.

Error messages never repeat the text of a record.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lockgate.errors import ExchangeError

_PLAIN = re.compile(r"(?=.{1,40}\Z)[A-Za-z_][\w.\-]*(?: [\w.\-]+){0,3}\Z")
_TEXT_PARTS = ("text", "input_text", "output_text")


def shown_name(name: str) -> str:
    """A column's or key's name if it looks like one; where data are broken a name may be a user's text."""
    return f"`{name}`" if _PLAIN.match(name) else "one whose name isn't plain"


def json_type(value: object) -> str:
    """The JSON name of a value's type, for messages; what isn't JSON's has Python's name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else type(value).__name__


class ContentFault(ExchangeError):
    """Content that is no text. `field` is relative to the message; `unsupported`: it is of another kind."""

    def __init__(self, field: str, what: str, *, unsupported: bool = False) -> None:
        super().__init__(f"{field}: {what}")
        self.field = field
        self.what = what
        self.unsupported = unsupported


def content_text(message: Mapping[str, Any], role: str, key: str = "content") -> str:
    """Text of a message: as it stands, or its text parts put together with nothing between them.

    An assistant's message without content has its refusal for text, as an SDK sends back a halted answer.

    Raises:
        ContentFault: neither text nor parts of text; names the field, never a value.
    """
    content = message.get(key)
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_part(part, role, f"{key}[{index}]") for index, part in enumerate(content))
    if content is None and role == "assistant":
        refusal = message.get("refusal")
        if isinstance(refusal, str):
            return refusal
        if message.get("tool_calls"):
            return ""
    raise ContentFault(key, f"expected text or a list of text parts, found {json_type(content)}")


def _part(part: object, role: str, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ContentFault(where, f'expected {{"type": "text", "text": ...}}, found {json_type(part)}')
    kind = part.get("type")
    field = "refusal" if kind == "refusal" and role == "assistant" else "text"
    if field == "text" and kind not in _TEXT_PARTS:
        raise ContentFault(f"{where}.type", "holds a part that is not text", unsupported=True)
    if not isinstance(part.get(field), str):
        raise ContentFault(f"{where}.{field}", f"expected text, found {json_type(part.get(field))}")
    return str(part[field])
