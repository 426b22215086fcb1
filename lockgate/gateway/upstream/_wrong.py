"""What an upstream can get wrong, as errors for the client."""

from collections.abc import Mapping
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


def malformed() -> UpstreamError:
    """Return the error for an answer that can't be understood, and so can't be scored."""
    return UpstreamError(502, "upstream_malformed", "The upstream's answer can't be understood.")


def upstream_fault() -> UpstreamError:
    """Return the error for one that the upstream sends in place of an answer, without its text."""
    return UpstreamError(502, "upstream_error", "The upstream failed to answer.")


class PassedError(ApiError):
    """An error of the upstream that the client gets as it is."""

    def __init__(self, status: int, body: dict[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(status, "The upstream refused the request.", code="upstream_error", headers=headers)
        self._body = body

    def body(self) -> dict[str, Any]:
        """Return the upstream's own body."""
        return self._body
