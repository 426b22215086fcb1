"""A fault of one row: a reason to count it by, and a message without the row's text."""

import re

from lockgate.errors import ExchangeError
from lockgate.exchanges._fields import shown_name as shown_name

# Up to five words of letters, digits and signs that join them. A long number may identify a person.
_LABEL = re.compile(r"(?=.{1,40}\Z)(?!.*\d{5})(?!.*//)\w[\w\-/&+,:()]*(?: [\w\-/&+,:()]+){0,4}\Z")


class RowFault(ExchangeError):
    """A fault of a row that can't be imported. The message starts with the field.

    `reason` is one of malformed, missing-column, wrong-type, empty-prompt, empty-answer, unknown-role,
    unknown-key, unsupported-part, same-sides, label and category.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.reason = reason


def is_label(name: str) -> bool:
    """Whether a value looks like a label and may be shown. Other values may be texts of users."""
    return _LABEL.match(name) is not None
