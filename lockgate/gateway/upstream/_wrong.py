"""What an upstream can get wrong, as errors for the client."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream._client import UpstreamError

# A finish reason is a name, not a text.
LONGEST_REASON = 64


def decoded(data: str | bytes) -> dict[str, Any]:
    """Decode a JSON object of an upstream. Raises UpstreamError."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise malformed() from None
    if not isinstance(found, dict):
        raise malformed()
    return found


def names_twice(data: bytes) -> bool:
    """Tell whether an object in a JSON text has two fields of one name. `decoded` gives only the last one."""
    try:
        json.loads(data, object_pairs_hook=_named_once)
    except (ValueError, RecursionError):
        return True
    return False


def _named_once(fields: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in fields}) < len(fields):
        raise ValueError("two fields have one name")


def checked_reason(reason: object) -> str | None:
    """Return why a choice ended. Raises UpstreamError: it is a text, and not the name of a reason."""
    if reason is not None and not (isinstance(reason, str) and len(reason) <= LONGEST_REASON):
        raise malformed()
    return reason


def checked_place(index: object) -> int | None:
    """Return the place of a part of an answer, None without one. Raises UpstreamError: it is no number."""
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise malformed()
    return index


def malformed() -> UpstreamError:
    """Return the error for an answer that can't be understood, and so can't be scored."""
    return UpstreamError(502, "upstream_malformed", "The upstream's answer can't be understood.")


def upstream_fault() -> UpstreamError:
    """Return the error for one that the upstream sends in place of an answer, without its text."""
    return UpstreamError(502, "upstream_error", "The upstream failed to answer.")


_ERROR_FIELDS = ("message", "type", "param", "code", "status")


class PassedError(ApiError):
    """An error of the upstream that the client gets, without the fields in which it may quote an answer."""

    def __init__(self, status: int, body: dict[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(status, "The upstream refused the request.", code="upstream_error", headers=headers)
        error = body["error"]
        told = _scalars(error, _ERROR_FIELDS) if isinstance(error, dict) else error
        self._body = {**_scalars(body, ("type", "request_id")), "error": told}

    def body(self) -> dict[str, Any]:
        """Return the upstream's own error."""
        return self._body


def _scalars(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the fields of these names, unless they hold fields of their own."""
    return {
        name: value for name, value in fields.items() if name in names and not isinstance(value, dict | list)
    }
