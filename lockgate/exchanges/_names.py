"""How messages name types and keys without repeating text of a record."""

import re
from collections.abc import Mapping, Sequence

_PLAIN = re.compile(r"(?=.{1,40}\Z)[A-Za-z_][\w.\-]*(?: [\w.\-]+){0,3}\Z")


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
