"""Settings of an endpoint, typed and checked. They hold no secret."""

import json
import os
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lockgate.errors import GeneratorError
from lockgate.synthesis._usage import Budget, Prices

# Fields of a request that some endpoints know by other names, or not at all.
RequestField = Literal["max_tokens", "temperature", "seed"]
_FIXED = ("model", "messages", "stream", "n")
_OWN_PORTS = {"http": 80, "https": 443}


class EndpointConfig(BaseModel):
    """Settings of an OpenAI-compatible endpoint.

    Attributes:
        base_url: address up to and including `/v1`.
        model: the model's name at the endpoint.
        api_key_env: name of the environment variable with the key. The key itself is never stored.
        concurrency: requests in flight at once.
        timeout_s, connect_timeout_s: seconds for one attempt.
        retries: attempts after the first, on time-outs, broken connections, 408, 409, 425, 429 and 5xx.
        backoff_s: attempt n waits between 0 and `backoff_s * 2**n` seconds, never over `longest_wait_s`.
        longest_wait_s: a longer Retry-After stops the run.
        give_up: what happens when the attempts of a request are used up, if the endpoint can be reached.
            `stop` ends the run (a later run goes on), `reject` records a failure.
        stop_after_failures: the run ends after this many requests in a row that are turned away or answered
            with junk. None never ends it. Answers that the endpoint's own filter stops don't count.
        extra_body: further fields of each request, such as `top_p`.
        fields: other names for `max_tokens`, `temperature` and `seed`, as in
            `{"max_tokens": "max_completion_tokens"}`; null leaves a field out. If `max_tokens` is left out,
            the endpoint may write more than the budget reserves.
        filtered: what becomes of an answer that the endpoint's own filter stops. `reject` makes it a failure,
            `keep` a completion with the text that was let through and the finish reason `content_filter`.
        prices, max_tokens, max_cost: the budget, see `Budget`.
        trust_env: whether to use the proxy settings of the environment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    concurrency: int = Field(default=16, ge=1, le=1024)
    timeout_s: float = Field(default=120.0, gt=0)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    retries: int = Field(default=6, ge=0)
    backoff_s: float = Field(default=0.5, ge=0)
    longest_wait_s: float = Field(default=120.0, gt=0)
    give_up: Literal["stop", "reject"] = "stop"
    stop_after_failures: int | None = Field(default=32, ge=2)
    extra_body: dict[str, Any] = Field(default_factory=dict)
    fields: dict[RequestField, str | None] = Field(default_factory=dict)
    filtered: Literal["reject", "keep"] = "reject"
    prices: Prices | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    trust_env: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices")
        sent = [name for name in self.field_names.values() if name is not None]
        if not all(sent) or len({*_FIXED, *sent}) < len(_FIXED) + len(sent):
            raise ValueError(f"fields: each needs a name of its own, other than {', '.join(_FIXED)}")
        if taken := sorted({*_FIXED, *sent} & {*self.extra_body}):
            raise ValueError(f"extra_body may not set {', '.join(taken)}")
        try:
            _normalise(self.base_url)
        except ValueError:
            raise ValueError("base_url: the port is no number up to 65535") from None
        return self

    @property
    def field_names(self) -> dict[RequestField, str | None]:
        """The endpoint's name for each field. A field with None is not sent."""
        return {name: self.fields.get(name, name) for name in get_args(RequestField)}

    @property
    def identity(self) -> str:
        """Model, address and further fields of requests. They are part of the keys of cached answers.

        The address is normalised (case of scheme and host, the scheme's own port, slashes at the end). The
        API key is no part of it.
        """
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""
        fields = json.dumps(self.fields, sort_keys=True) if self.fields else ""
        kept = "with filtered answers" if self.filtered == "keep" else ""
        return " ".join(filter(None, (self.model, "at", _normalise(self.base_url), extra, fields, kept)))

    @property
    def url(self) -> str:
        """The URL of chat completions."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    def budget(self) -> Budget:
        """Return a new budget with these settings."""
        return Budget(max_tokens=self.max_tokens, max_cost=self.max_cost, prices=self.prices)

    def headers(self) -> dict[str, str]:
        """Return the request headers with the key.

        Raises:
            GeneratorError: The key's variable is not set, or holds characters that no header can carry.
        """
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise GeneratorError(
                f"api_key_env: the environment variable {self.api_key_env} is not set; "
                "put the endpoint's key there"
            )
        if not key.isascii() or not key.isprintable():
            raise GeneratorError(
                f"api_key_env: the value of {self.api_key_env} holds characters that no key has; set it again"
            )
        return {"Authorization": f"Bearer {key}"}


def _normalise(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _OWN_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
