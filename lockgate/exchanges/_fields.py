"""Fields of a record: the text of a message's `content`, and the names of types and keys in errors.

Error messages never repeat the text of a record.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lockgate.errors import ExchangeError

_PLAIN = re.compile(r"(?=.{1,40}\Z)[A-Za-z_][\w.\-]*(?: [\w.\-]+){0,3}\Z")
_TEXT_PARTS = ("text", "input_text", "output_text")


def shown_name(name: str) -> str:
    """Return a column's or key's name if it looks like one. In broken data it may be a user's text."""
    return f"`{name}`" if _PLAIN.match(name) else "one whose name isn't plain"


def json_type(value: object) -> str:
    """Return the JSON name of a value's type. A type that JSON lacks has its Python name."""
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
    """Content that is not text.

    Attributes:
        field: path of the faulty field within the message.
        what: what is wrong with it.
        unsupported: whether the content is of another kind, such as an image.
    """

    def __init__(self, field: str, what: str, *, unsupported: bool = False) -> None:
        super().__init__(f"{field}: {what}")
        self.field = field
        self.what = what
        self.unsupported = unsupported


def content_text(message: Mapping[str, Any], role: str, key: str = "content") -> str:
    """Return the text of a message. Several text parts are joined with nothing between them.

    An assistant's message without content gives its `refusal`: SDKs send back a halted answer in this form.
    With tool calls alone it gives the empty text.

    Args:
        message: the decoded message.
        role: the message's role.
        key: the field that holds the content.

    Raises:
        ContentFault: the content is neither text nor a list of text parts. The error names the field, never
            a value.
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
