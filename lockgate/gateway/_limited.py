"""The errors for limits that are exceeded, in the shape that OpenAI's clients know."""

import math

from lockgate.gateway._errors import ApiError
from lockgate.tenants import Refusal

_EXCEEDED = {
    "requests": "This tenant's rate of requests is exceeded.",
    "tokens": "This tenant's rate of tokens is exceeded.",
    "concurrent": "This tenant has as many open requests as it may have.",
}


def limit_error(code: str, message: str, wait: float) -> ApiError:
    """Return the error for a limit that is exceeded, with the seconds to wait."""
    seconds = max(1, math.ceil(wait))
    return ApiError(
        429,
        f"{message} Try again in {seconds} s.",
        kind="rate_limit_error",
        code=code,
        headers={"Retry-After": str(seconds)},
    )


def limit_exceeded(found: Refusal) -> ApiError:
    """Return the error for a limit of a tenant."""
    return limit_error("rate_limit_exceeded", _EXCEEDED[found.limit], found.wait)
