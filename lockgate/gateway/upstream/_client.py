"""Requests to an upstream: one connection pool, bounded retries before the first byte, no redirects."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import msgspec

from lockgate.gateway._breaker import Breaker
from lockgate.gateway._errors import ApiError
from lockgate.gateway._tracing import traced_call
from lockgate.gateway.upstream._options import UpstreamOptions

# Statuses with which a server says that it has not begun to answer.
_TRY_AGAIN = frozenset({502, 503, 504})
_PASSED_ON = ("traceparent", "tracestate", "openai-organization", "openai-project", "openai-beta")
_ANTHROPIC = ("anthropic-version", "anthropic-beta")


class UpstreamError(ApiError):
    """The upstream can't be reached, breaks off, or sends what can't be understood."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = 1) -> None:
        headers = {"Retry-After": str(retry_after)}
        super().__init__(status, message, kind="server_error", code=code, headers=headers)


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
    """The HTTP client of one upstream. It goes to the configured address only and follows no redirect.

    Attributes:
        breaker: counts failures in a row, so that nobody waits for an upstream that is down.
    """

    def __init__(self, options: UpstreamOptions, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.options = options
        self.breaker = Breaker(options.breaker)
        self._transport = transport
        self._connected: httpx2.AsyncClient | None = None
        self._open_answers = 0
        self._retired = False

    @property
    def _client(self) -> httpx2.AsyncClient:
        """The pool of connections. An answer may still be asked for after the upstream was retired."""
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _connect(self) -> httpx2.AsyncClient:
        options = self.options
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(
                options.idle_timeout, connect=options.connect_timeout, pool=options.connect_timeout
            ),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
            transport=self._transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        client, self._connected = self._connected, None
        if client is not None:
            await client.aclose()

    async def retire(self) -> None:
        """Close the connections as soon as no answer is open."""
        self._retired = True
        if not self._open_answers:
            await self.close()

    def headers_for(self, client: Mapping[str, str], *, own_key: bool, name: str) -> dict[str, str]:
        """Return the headers of a request on behalf of a client.

        Args:
            client: headers of the client's request, in small letters.
            own_key: whether this server has a key of its own, so that the client's is not the upstream's.
            name: id of the request, under which both servers know it.
        """
        found = {name: client[name] for name in (*_PASSED_ON, *_ANTHROPIC) if name in client}
        found.update({"content-type": "application/json", "x-request-id": name})
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
            UpstreamError: the upstream can't be reached, its answer does not begin in time, or it has failed
                so often that it is not asked for a while (503).
        """
        self._open_answers += 1
        try:
            with self._counted(), traced_call(method, self.options.url + path, headers) as call:
                response = await self._open(method, path, call.headers, body)
                call.status = response.status_code
                try:
                    if response.is_redirect:
                        what = "The upstream redirects; give its final URL."
                        raise UpstreamError(502, "upstream_redirect", what)
                    with upstream_faults():
                        yield response
                    if response.status_code in _TRY_AGAIN:
                        self.breaker.fail()
                    else:
                        self.breaker.succeed()
                finally:
                    await response.aclose()
        finally:
            self._open_answers -= 1
            if self._retired and not self._open_answers:
                await self.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Let the breaker see an attempt's failure. Only those of the upstream count."""
        is_probe = self.breaker.is_open
        if not self.breaker.enter():
            seconds = max(1, math.ceil(self.breaker.wait))
            what = f"The upstream does not answer. It is asked again in {seconds} s."
            raise UpstreamError(503, "upstream_down", what, seconds)
        try:
            yield
        except UpstreamError:
            self.breaker.fail()
            raise
        finally:
            if is_probe:
                self.breaker.leave()

    async def _open(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> httpx2.Response:
        for attempt in range(self.options.retries + 1):
            last = attempt == self.options.retries
            try:
                async with asyncio.timeout(self.options.first_timeout):
                    request = self._request(method, path, headers, body)
                    # A whole answer begins once it is written: until then, silence is no sign of a fault.
                    waits = request.extensions["timeout"]
                    waits["read"] = None
                    response = await self._client.send(request, stream=True)
                    waits["read"] = self.options.idle_timeout
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
