"""Requests to an upstream: one connection pool, bounded retries before the first byte, no redirects."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import msgspec

from lockgate.gateway._errors import ApiError
from lockgate.gateway.upstream._options import UpstreamOptions

# Statuses with which a server says that it has not begun to answer.
_TRY_AGAIN = frozenset({502, 503, 504})
_PASSED_ON = ("traceparent", "tracestate", "openai-organization", "openai-project", "openai-beta")
_ANTHROPIC = ("anthropic-version", "anthropic-beta")


class UpstreamError(ApiError):
    """The upstream can't be reached, breaks off, or sends what can't be understood."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, message, kind="server_error", code=code, headers={"Retry-After": "1"})


@contextmanager
def upstream_faults() -> Iterator[None]:
    """Turn the HTTP client's errors, while an answer is read, into UpstreamError."""
    try:
        yield
    except httpx2.TimeoutException:
        raise UpstreamError(504, "upstream_stalled", "The upstream has gone silent.") from None
    except httpx2.SSEError:
        message = "The upstream sent no event stream, or an event that is too long."
        raise UpstreamError(502, "upstream_malformed", message) from None
    except httpx2.TransportError:
        raise UpstreamError(502, "upstream_broke_off", "The upstream's answer broke off.") from None
    except httpx2.DecodingError:
        raise UpstreamError(502, "upstream_malformed", "The upstream's compression is damaged.") from None


class UpstreamClient:
    """The HTTP client of one upstream. It goes to the configured address only and follows no redirect."""

    def __init__(self, options: UpstreamOptions, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.options = options
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(
                options.idle_timeout, connect=options.connect_timeout, pool=options.connect_timeout
            ),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def headers_for(self, client: Mapping[str, str], *, own_key: bool) -> dict[str, str]:
        """Return the headers of a request on behalf of a client.

        Args:
            client: headers of the client's request, in small letters.
            own_key: whether this server has a key of its own, so that the client's is not the upstream's.
        """
        found = {name: client[name] for name in (*_PASSED_ON, *_ANTHROPIC) if name in client}
        found["content-type"] = "application/json"
        if self.options.key is not None:
            found["authorization"] = f"Bearer {self.options.key}"
            if "anthropic-version" in client:
                found["x-api-key"] = self.options.key
        elif not own_key:
            found.update({name: client[name] for name in ("authorization", "x-api-key") if name in client})
        return found

    @asynccontextmanager
    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request and yield the response as soon as its head is there. The end closes the connection.

        Raises:
            UpstreamError: the upstream can't be reached, or its answer does not begin in time.
        """
        response = await self._open(method, path, headers, body)
        try:
            if response.is_redirect:
                raise UpstreamError(502, "upstream_redirect", "The upstream redirects; give its final URL.")
            with upstream_faults():
                yield response
        finally:
            await response.aclose()

    async def _open(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> httpx2.Response:
        for attempt in range(self.options.retries + 1):
            last = attempt == self.options.retries
            try:
                async with asyncio.timeout(self.options.first_timeout):
                    response = await self._client.send(
                        self._request(method, path, headers, body), stream=True
                    )
            except TimeoutError:
                raise UpstreamError(504, "upstream_timeout", "The upstream does not answer.") from None
            except httpx2.TimeoutException:
                if last:
                    raise UpstreamError(504, "upstream_timeout", "The upstream does not answer.") from None
            except httpx2.TransportError:
                if last:
                    raise UpstreamError(
                        502, "upstream_unreachable", "The upstream can't be reached."
                    ) from None
            else:
                if response.status_code not in _TRY_AGAIN or last:
                    return response
                await response.aclose()
            await asyncio.sleep(0.2 * 2**attempt * (1 + random.random()))  # noqa: S311 - only spreads retries
        raise RuntimeError("the last attempt returns or raises")

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> httpx2.Request:
        return self._client.build_request(method, self.options.url + path, headers=headers, content=body)

    def name_model(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the payload with the upstream's own model name, if one is set."""
        return payload if self.options.model is None else {**payload, "model": self.options.model}

    def encode(self, payload: dict[str, Any]) -> bytes:
        """Return the body of a request, with the upstream's own model name."""
        return msgspec.json.encode(self.name_model(payload))

    async def read(self, response: httpx2.Response, most: int | None = None) -> bytes:
        """Read a response that is not streamed. Raises UpstreamError: it is longer than allowed."""
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > (most or self.options.max_answer_bytes):
                raise UpstreamError(502, "upstream_too_long", "The upstream's answer is longer than allowed.")
            parts.append(part)
        return b"".join(parts)
