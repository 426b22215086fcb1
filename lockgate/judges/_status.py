"""What the status of an endpoint's reply means for a judge. No text of the reply is repeated."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lockgate.judges._file import EndpointFile
from lockgate.judges._logprobs import NoVerdict

_TRY_AGAIN = (408, 409, 425, 429)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt that may succeed when it is repeated, after `wait` seconds if the endpoint says so."""

    reason: str
    wait: float | None = None


def read_status(status: int, headers: Mapping[str, str], body: bytes, file: EndpointFile) -> bytes | Retry:
    """Return the body of a success, or why another attempt may help.

    Raises:
        NoVerdict: another attempt would not help. The text says what to change.
    """
    if status == 200:
        return body
    code, param = _error(body)
    named = f"HTTP {status}" + (f", {code}" if code else "")
    if status in (401, 403):
        key = f"the key in {file.api_key_env}" if file.api_key_env else "api_key_env, which names no key"
        raise NoVerdict(f"the endpoint refuses access ({named}); check {key}")
    if status in (404, 405):
        raise NoVerdict(
            f"the endpoint knows no such address or model ({named}); check url (it ends in /v1) and model"
        )
    if 300 <= status < 400:
        raise NoVerdict(
            f"the endpoint redirects ({named}), which is not followed; give the final address as url"
        )
    if status in _TRY_AGAIN or status >= 500:
        return Retry(named, _wait(headers.get("Retry-After")))
    if param == "top_logprobs" and file.top_logprobs:
        raise NoVerdict(
            f"the endpoint gives no alternatives to the chosen token ({named}); set top_logprobs: 0, or "
            "fewer, or ask one that does"
        )
    raise NoVerdict(
        f"the endpoint does not accept the request ({named}{f', {param}' if param else ''}); it has to take "
        "logprobs, top_logprobs, max_tokens and temperature, and hold the conversation"
    )


def _error(body: bytes) -> tuple[str, str]:
    """Return the code and the field of an error, or "". Its message may quote the conversation."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, RecursionError, AttributeError):
        return "", ""
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code = fields.get("code") if isinstance(fields.get("code"), str) else fields.get("type")
    return _word(code), _word(fields.get("param"))


def _word(value: object) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def _wait(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None if it holds none."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
