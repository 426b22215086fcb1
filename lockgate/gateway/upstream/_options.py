"""Settings of one upstream: where it is, which key it gets, and how long it may take."""

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import httpx2

from lockgate.errors import ConfigError
from lockgate.gateway._breaker import BreakerOptions

Media = Literal["refuse", "pass"]


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """An OpenAI-compatible server in front of which the guard stands.

    Attributes:
        url: its base address, such as `http://127.0.0.1:8080/v1`.
        model: model to ask for, whatever name the client gives. None passes the client's name on.
        key_env: environment variable with the upstream's key. None sends the client's own authorization, if
            this server asks for no key itself.
        connect_timeout: seconds to connect.
        first_timeout: seconds until the upstream's answer begins.
        idle_timeout: seconds without a byte after which a stream counts as dead.
        retries: further attempts while no byte of the answer has arrived.
        media: what happens to images, audio and files in a request. The guard reads text only, so `refuse`
            answers 400, and `pass` sends them on unread.
        max_answer_bytes: longest answer that is not streamed.
        max_event_bytes: longest event of a stream.
        breaker: when the upstream counts as down, and for how long.

    Raises:
        ConfigError: a setting is not valid, or `key_env` is not set.
    """

    url: str
    model: str | None = None
    key_env: str | None = None
    connect_timeout: float = 10.0
    first_timeout: float = 120.0
    idle_timeout: float = 60.0
    retries: int = 2
    media: Media = "refuse"
    max_answer_bytes: int = 8 * 1024 * 1024
    max_event_bytes: int = 1024 * 1024
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ConfigError("upstream url: expected http(s)://HOST[:PORT]/v1, without query or fragment")
        if parts.username or parts.password:
            raise ConfigError("upstream url: holds a password; name a variable with it in key_env")
        timeouts = (self.connect_timeout, self.first_timeout, self.idle_timeout)
        if not all(seconds > 0 for seconds in timeouts) or self.retries < 0:
            raise ConfigError("upstream: expected time-outs above 0 and retries of at least 0")
        if self.media not in ("refuse", "pass"):
            raise ConfigError(f"upstream media: expected refuse or pass, found {self.media}")
        if min(self.max_answer_bytes, self.max_event_bytes) < 1:
            raise ConfigError("upstream: expected max_answer_bytes and max_event_bytes of at least 1")
        if self.key_env is not None and self.key is None:
            key = os.environ.get(self.key_env, "").strip()
            if not key:
                raise ConfigError(f"upstream key_env: the environment variable {self.key_env} is not set")
            object.__setattr__(self, "key", key)
        object.__setattr__(self, "url", self.url.rstrip("/"))


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an address with a host, or None if nobody can be reached there."""
    try:
        httpx2.URL(url)
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except (ValueError, httpx2.InvalidURL):  # a port beyond 65535, or half an address of IPv6
        return None
    return parts if fine else None
