"""What is wrong with one row: a word to count it by, and a message without its text."""

import re

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import shown_name as shown_name

# Up to five words of letters, digits and what joins them in names; a long number may be somebody's.
_LABEL = re.compile(r"(?=.{1,40}\Z)(?!.*\d{5})(?!.*//)\w[\w\-/&+,:()]*(?: [\w\-/&+,:()]+){0,4}\Z")


class RowFault(ExchangeError):
    """A row that can't be imported; the message starts with the field.

    `reason` is one of malformed, missing-column, wrong-type, empty-prompt, empty-answer, unknown-role,
    unknown-key, unsupported-part, same-sides, label and category.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.reason = reason


def is_label(name: str) -> bool:
    """Whether a value looks like a label and may be shown; one that doesn't may be a user's text."""
    return _LABEL.match(name) is not None
