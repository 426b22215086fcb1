"""One attempt at a request: the HTTP call, and the meaning of status, headers and body."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from lockgate.errors import GeneratorError
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._reply import (
    error_code,
    is_content_code,
    is_out_of_quota,
    read_completion,
    retry_after,
)
from lockgate.synthesis._requests import Completion, GenerationFailure, GenerationRequest, Outcome

if TYPE_CHECKING:
    import httpx2

_MAX_BODY_BYTES = 8 * 2**20
_REFUSED_KEY = (401, 403)
_NOT_THERE = (404, 405)
_TRY_AGAIN = (408, 409, 425, 429)
_NOT_REACHED = ("ConnectError", "ConnectTimeout")
_NOT_SENT = (
    "PoolTimeout", "WriteTimeout", "WriteError", "ProxyError", "LocalProtocolError", "UnsupportedProtocol",
)  # fmt: skip
# A proxy stopped waiting. The server behind it may still have written the answer.
_LOST_BEHIND_PROXY = (504, 524)


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt that may succeed when it is repeated."""

    reason: str
    wait: float | None = None
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of an attempt. `lost`: the server may have written and billed an answer that is lost."""

    result: Outcome | Retry
    lost: bool = False


class Sender:
    """A sender of attempts. The first attempt opens its connections.

    Args:
        config: settings of the endpoint.
        headers: headers of each request.
        http: the HTTP client's module, an optional dependency.
    """

    def __init__(self, config: EndpointConfig, headers: Mapping[str, str], http: ModuleType) -> None:
        self._config = config
        self._headers = headers
        self._http = http
        self._client: httpx2.AsyncClient | None = None

    @property
    def where(self) -> str:
        """The endpoint's name in messages."""
        return f"the endpoint {self._config.base_url}"

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def send(self, request: GenerationRequest) -> Attempt:
        """Make one attempt.

        Raises:
            GeneratorError: The error concerns all requests.
        """
        http = self._http
        try:
            status, headers, body = await self._post(request)
        except http.DecodingError:
            failure = GenerationFailure("malformed", "the reply's compression is damaged")
            return Attempt(failure, lost=True)
        except http.InvalidURL as error:
            raise GeneratorError(
                "base_url: not a valid address; expected http(s)://HOST[:PORT]/v1"
            ) from error
        except http.TransportError as error:
            return _break(type(error).__name__, timed_out=isinstance(error, http.TimeoutException))
        if body is None:
            reason = f"the reply is longer than {_MAX_BODY_BYTES >> 20} MiB"
            return Attempt(GenerationFailure("malformed", reason), lost=True)
        if status == 200:
            keep = self._config.filtered == "keep"
            outcome = read_completion(body, request, keep_filtered=keep)
            return Attempt(outcome, lost=not isinstance(outcome, Completion))
        return Attempt(self._judge(status, headers, body), lost=status in _LOST_BEHIND_PROXY)

    async def _post(self, request: GenerationRequest) -> tuple[int, Mapping[str, str], bytes | None]:
        config = self._config
        client = self._client = self._client or self._connect()
        asked = {"max_tokens": request.max_tokens, "temperature": request.temperature, "seed": request.seed}
        content = {
            **config.extra_body,
            "model": config.model,
            "messages": [message.to_dict() for message in request.messages],
            **{name: asked[field] for field, name in config.field_names.items() if name is not None},
        }
        # The key of the cached answer. One key for two different bodies would give both the same answer.
        key = {"Idempotency-Key": request.key(config.identity)}
        # The client's own time-out covers each read. This one ends a server that sends slowly for ever.
        try:
            async with asyncio.timeout(config.timeout_s + config.connect_timeout_s):
                async with client.stream("POST", config.url, json=content, headers=key) as response:
                    return response.status_code, response.headers, await _read(response)
        except TimeoutError as error:
            raise self._http.ReadTimeout("the whole reply") from error

    def _connect(self) -> "httpx2.AsyncClient":
        config, http = self._config, self._http
        try:
            client: httpx2.AsyncClient = http.AsyncClient(
                timeout=http.Timeout(config.timeout_s, connect=config.connect_timeout_s),
                limits=http.Limits(max_connections=config.concurrency),
                headers=self._headers,
                trust_env=config.trust_env,
            )
        except ImportError as error:
            raise GeneratorError(
                f"{self.where}: the environment names a SOCKS proxy (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY), "
                'which needs an optional dependency: pip install "lockgate[synthesis]"; or list the host in '
                "NO_PROXY"
            ) from error
        except (ValueError, http.InvalidURL) as error:
            raise GeneratorError(
                f"{self.where}: the environment names a proxy with an invalid address (ALL_PROXY, "
                "HTTPS_PROXY or HTTP_PROXY); expected http://HOST:PORT or socks5://HOST:PORT"
            ) from error
        return client

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Retry:
        code = error_code(body)
        named = f"HTTP {status}" + (f", {code}" if code else "")
        config = self._config
        if status in _REFUSED_KEY:
            setting = (
                f"the key in the environment variable {config.api_key_env} (setting api_key_env)"
                if config.api_key_env
                else "api_key_env: no key was sent; name the variable that holds it"
            )
            raise GeneratorError(f"{self.where} refused access ({named}); check {setting}")
        if status == 402 or (status == 429 and is_out_of_quota(code)):
            raise GeneratorError(
                f"{self.where}: the account's quota is used up ({named}). Finished work is kept"
            )
        if status in _NOT_THERE:
            raise GeneratorError(
                f"{self.where} knows no such address or model ({named}); check base_url (it ends in /v1) "
                f"and model ({config.model})"
            )
        if status in _TRY_AGAIN or status >= 500:
            return Retry(named, wait=retry_after(headers.get("Retry-After")))
        if 300 <= status < 400:
            raise GeneratorError(f"{self.where} redirects ({named}); give the final address as base_url")
        return GenerationFailure("filtered" if is_content_code(code) else "not_accepted", named)


def _break(kind: str, *, timed_out: bool) -> Attempt:
    if kind in _NOT_REACHED:
        return Attempt(Retry("no connection", reached=False))
    return Attempt(Retry("timed out" if timed_out else kind), lost=kind not in _NOT_SENT)


async def _read(response: "httpx2.Response") -> bytes | None:
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > _MAX_BODY_BYTES:
            return None
        pieces.append(piece)
    return b"".join(pieces)
