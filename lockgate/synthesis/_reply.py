"""Replies of an OpenAI-compatible endpoint. Failures never repeat text of the reply."""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from lockgate.synthesis._requests import (
    Completion,
    GenerationFailure,
    GenerationRequest,
    Outcome,
    estimate_tokens,
)

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_CONTENT = re.compile(r"content(?!.?type)|policy|safety|moderat|filter|flagged|invalid_prompt", re.IGNORECASE)
_THOUGHTS = ("reasoning_content", "reasoning")
_NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "quota_exceeded")


def read_completion(body: bytes, request: GenerationRequest, *, keep_filtered: bool = False) -> Outcome:
    """Read the completion in a chat-completions body. A missing or wrong field is a failure.

    With `keep_filtered`, what a filter let through of an answer is a completion too.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return GenerationFailure("malformed", "the reply is not JSON")
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return GenerationFailure("malformed", "the reply holds no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return GenerationFailure("malformed", "the choice holds no message")
    finish = choice.get("finish_reason")
    if finish == "content_filter" and keep_filtered:
        text = message.get("content") or ""
        if not isinstance(text, str) or not _is_unicode(text):
            return GenerationFailure("malformed", "the message holds no text")
        return Completion(text, finish, *read_usage(reply, request, text))
    if finish == "content_filter":
        return GenerationFailure("filtered", "the endpoint's own filter stopped the answer")
    text = message.get("content")
    if text is None and isinstance(message.get("refusal"), str):
        # A refusal in its own field is an answer like any other: the caller's filters decide about it.
        text = message["refusal"]
    if text is None and any(isinstance(message.get(name), str) for name in _THOUGHTS):
        # The model only thought and said nothing. That is an empty answer, not a broken endpoint.
        text = ""
    if not isinstance(text, str):
        return GenerationFailure("malformed", "the message holds no text")
    if not _is_unicode(text):
        return GenerationFailure("malformed", "the text holds a lone surrogate")
    prompt, completion = read_usage(reply, request, text)
    return Completion(text, finish if finish in ("stop", "length") else "stop", prompt, completion)


def read_usage(reply: object, request: GenerationRequest, text: str = "") -> tuple[int, int]:
    """Return prompt and completion tokens: the endpoint's counts, or estimates without them."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    usage = usage if isinstance(usage, Mapping) else {}
    return (
        _count(usage.get("prompt_tokens"), request.estimated_prompt_tokens),
        _count(usage.get("completion_tokens"), estimate_tokens(text)),
    )


def error_code(body: bytes) -> str:
    """Return the code of an error body, or "". The message is left out: it may quote the prompt or key."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, RecursionError, AttributeError):
        return ""
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    for value in (fields.get("code"), fields.get("type")):
        if isinstance(value, str) and _CODE.fullmatch(value):
            return value
    return ""


def is_out_of_quota(code: str) -> bool:
    """Tell whether the code of a 429 says that the account is empty, so that waiting doesn't help."""
    return code in _NO_QUOTA


def is_content_code(code: str) -> bool:
    """Tell whether an error's code says that the endpoint rejects the content of the request."""
    return _CONTENT.search(code) is not None


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date. None if it has neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    # NaN compares false with everything, so it gives None.
    return max(0.0, seconds) if seconds < float("inf") else None


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
