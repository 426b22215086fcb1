"""Request bodies: limits on size, time and number of values, all checked before a body is decoded."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from lockgate.exchanges import json_type
from lockgate.gateway._clients import caller_of
from lockgate.gateway._errors import ApiError

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_VALUES = 50_000
MAX_DEPTH = 64
# Bytes of all bodies that are being read or decoded at one time.
BODY_ROOM_BYTES = 64 * 1024 * 1024
BODY_SECONDS = 30.0


class BodyRoom:
    """The memory that all bodies share while they are read and decoded. Only the event loop uses it."""

    def __init__(self, limit: int = BODY_ROOM_BYTES) -> None:
        self.limit = limit
        self.used = 0

    @contextmanager
    def share(self) -> Iterator["BodyShare"]:
        """Yield the share of one body. It is given back at the end of the block."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.used -= share.taken


class BodyShare:
    """The part of a `BodyRoom` that one body holds.

    Attributes:
        limit: bytes that it may hold.
    """

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self.taken = 0
        self.limit = MAX_BODY_BYTES

    def take(self, size: int) -> None:
        """Take `size` more bytes. Raises ApiError: too large (413), or no room now (503)."""
        if self.taken + size > self.limit:
            raise _too_large(self.limit)
        if self._room.used + size > self._room.limit:
            raise ApiError(
                503,
                "Too many large requests arrive at one time. Try again in 1 s.",
                kind="server_error",
                code="unavailable",
                headers={"Retry-After": "1"},
            )
        self._room.used += size
        self.taken += size


async def read_body(request: Request, share: BodyShare) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: not JSON (415), too large (413), too slow (408), or no room now (503).
    """
    # Any web page can make a browser send other content types here, without a preflight request.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The body must be sent as Content-Type: application/json.", code="content_type")
    share.limit = min(MAX_BODY_BYTES, caller_of(request).settings.longest_body or MAX_BODY_BYTES)
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > share.limit:
        raise _too_large(share.limit)
    parts = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                share.take(len(part))
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408, f"The body did not arrive within {BODY_SECONDS:g} s.", code="request_timeout"
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "The connection ended before the body did.", code="incomplete_body") from None
    return b"".join(parts)


def decode_body(body: bytes) -> dict[str, Any]:
    """Decode the JSON object of a request body. Raises ApiError (400)."""
    check_size(body)
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _explain_undecodable(body, error) from None
    if not isinstance(payload, dict):
        raise ApiError(400, f"The body must be a JSON object, found {json_type(payload)}.")
    return payload


def check_size(body: bytes) -> None:
    """Count the values of a JSON text, and how deeply they are nested, without decoding it.

    The work grows with the length of the text only. Raises ApiError (400): too many values, or too deep.
    """
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Every second part stands between strings. With too many strings the last part holds the rest.
    parts = plain.split(b'"', 2 * MAX_VALUES)
    structure = b"".join(parts[::2])
    values = 1 + sum(map(structure.count, (b",", b"[", b"{")))
    brackets = structure.translate(None, delete=_NOT_BRACKETS)
    if len(parts) > 2 * MAX_VALUES or values > MAX_VALUES or len(brackets) > 2 * MAX_VALUES:
        raise ApiError(400, f"The body holds more than {MAX_VALUES} values.", code="too_many_values")
    depth = itertools.accumulate(1 if bracket in b"[{" else -1 for bracket in brackets)
    if max(depth, default=0) > MAX_DEPTH:
        raise ApiError(400, f"The body is nested more than {MAX_DEPTH} levels deep.", code="too_deep")


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _explain_undecodable(body: bytes, error: Exception) -> ApiError:
    if isinstance(error, RecursionError):
        return ApiError(400, "The body is nested too deeply.", code="too_deep")
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "The body is not valid UTF-8.", code="invalid_unicode")
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return ApiError(
            400,
            "The body holds a lone surrogate (an unpaired \\ud800 to \\udfff escape), which is not text. "
            "Replace it, for instance with \\ufffd.",
            code="invalid_unicode",
        )
    except (ValueError, RecursionError):
        pass
    return ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json")


def _too_large(limit: int) -> ApiError:
    shown = f"{limit} bytes" if limit < MAX_BODY_BYTES else f"{limit // 1024 // 1024} MB"
    return ApiError(413, f"The body is larger than {shown}.", code="request_too_large")
