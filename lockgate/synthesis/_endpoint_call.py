"""One call of an endpoint generator: requests in flight, retries, pauses, and the judgement of replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import TYPE_CHECKING

from lockgate.errors import GeneratorError, LockgateError
from lockgate.synthesis._reply import error_code, is_out_of_quota, read_completion, retry_after
from lockgate.synthesis._requests import Completion, GenerationFailure, GenerationRequest, Outcome
from lockgate.synthesis._usage import count_completion

if TYPE_CHECKING:
    import httpx2

    from lockgate.synthesis._endpoint import EndpointGenerator

Sleep = Callable[[float], Awaitable[None]]

_MAX_BODY_BYTES = 8 * 2**20
_REFUSED_KEY = (401, 403)
_NOT_THERE = (404, 405)
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class _Retry:
    """An attempt that may go better next time."""

    reason: str
    wait: float | None = None
    reached: bool = True


@dataclass(slots=True)
class EndpointCall:
    """One call of `stream`. Its event loop runs only while an outcome is waited for."""

    owner: "EndpointGenerator"
    requests: Sequence[GenerationRequest]
    error: LockgateError | None = None
    next_index: int = 0
    tasks: dict["asyncio.Task[Outcome]", int] = field(default_factory=dict)
    waiting: set["asyncio.Task[Outcome]"] = field(default_factory=set)
    client: "httpx2.AsyncClient | None" = None
    not_before: float = 0.0

    async def next_finished(self) -> list[tuple[int, Outcome]]:
        """The next outcomes; none when all are done, or when those in flight at an error have ended."""
        while True:
            self._start()
            if not self.tasks:
                return []
            done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            finished: list[tuple[int, Outcome]] = []
            for task in sorted(done, key=self.tasks.__getitem__):
                index = self.tasks.pop(task)
                self.waiting.discard(task)
                if task.cancelled():
                    continue
                error = task.exception()
                if error is None:
                    finished.append((index, task.result()))
                elif isinstance(error, GeneratorError):
                    self._stop(error)
                else:
                    raise error
            if finished:
                return finished

    def _start(self) -> None:
        config = self.owner.config
        while (
            self.error is None
            and len(self.tasks) < config.concurrency
            and self.next_index < len(self.requests)
        ):
            request = self.requests[self.next_index]
            in_flight = [self.requests[index] for index in self.tasks.values()]
            if not self.owner.budget.has_room([*in_flight, request]):
                # Reservations are larger than what comes back, so there may be room when the others are done.
                if not self.tasks:
                    self._stop(self.owner.budget.exhausted())
                return
            self.tasks[asyncio.ensure_future(self._answer(request))] = self.next_index
            self.next_index += 1

    def _stop(self, error: LockgateError) -> None:
        self.error = self.error or error
        # What is being written right now is paid for and waited for; what only waits for its turn is not.
        for task in self.waiting:
            task.cancel()

    async def close(self) -> None:
        """Cancel what is in flight and close the connections."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        if self.client is not None:
            await self.client.aclose()

    async def _answer(self, request: GenerationRequest) -> Outcome:
        config = self.owner.config
        for attempt in range(config.retries + 1):
            if attempt or self.not_before > time.monotonic():
                await self._wait(attempt)
            if self.error is not None:
                raise GeneratorError("another request stopped the run")
            result = await self._attempt(request)
            if not isinstance(result, _Retry):
                self._count(request, result)
                return result
            if result.wait is not None:
                self._hold(result.wait)
            if attempt == config.retries:
                return self._give_up(result)
            self.owner.usage.retries += 1
        raise AssertionError("the last attempt returns or raises")

    def _count(self, request: GenerationRequest, outcome: Outcome) -> None:
        if isinstance(outcome, Completion):
            count_completion(self.owner.usage, request, outcome)
            self.owner.budget.spend(outcome.prompt_tokens, outcome.completion_tokens)
        else:
            # What a failed answer took is not known; its prompt was read.
            self.owner.usage.failures += 1
            self.owner.usage.add(request, request.estimated_prompt_tokens, 0)
            self.owner.budget.spend(request.estimated_prompt_tokens, 0)

    def _hold(self, seconds: float) -> None:
        """Retry-After speaks of the endpoint, not of one request: everybody waits."""
        if seconds > self.owner.config.longest_wait_s:
            raise GeneratorError(
                f"{self._where} asks to wait {seconds:.0f} s, more than longest_wait_s "
                f"({self.owner.config.longest_wait_s:.0f}). Finished work is kept; run again later"
            )
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    async def _wait(self, attempt: int) -> None:
        config = self.owner.config
        ceiling = min(config.longest_wait_s, config.backoff_s * 2.0**attempt)
        held = max(0.0, self.not_before - time.monotonic())
        task = asyncio.current_task()
        if task is not None:
            self.waiting.add(task)
        try:
            # Full jitter, also behind a Retry-After: nobody may come back at the same moment.
            await self.owner.sleep(held + _random.uniform(0.0, ceiling))
        finally:
            if task is not None:
                self.waiting.discard(task)

    def _give_up(self, result: _Retry) -> Outcome:
        tries = f"{self.owner.config.retries + 1} attempts"
        if result.reached and self.owner.config.give_up == "reject":
            self.owner.usage.failures += 1
            return GenerationFailure("no_answer", f"{result.reason} after {tries}")
        raise GeneratorError(
            f"{self._where} gave no answer in {tries} ({result.reason}). Finished work is kept; check "
            "base_url and that the server runs, lower concurrency if it is overloaded, and run again"
        )

    async def _attempt(self, request: GenerationRequest) -> Outcome | _Retry:
        http = self.owner.http
        try:
            status, headers, body = await self._post(request)
        except (http.ConnectError, http.ConnectTimeout):
            return _Retry("no connection", reached=False)
        except http.TimeoutException:
            return _Retry("timed out")
        except http.DecodingError:
            return GenerationFailure("malformed", "the reply's compression is damaged")
        except http.InvalidURL as error:
            raise GeneratorError(
                "base_url: not a valid address; expected http(s)://HOST[:PORT]/v1"
            ) from error
        except http.TransportError as error:
            return _Retry(type(error).__name__)
        if body is None:
            return GenerationFailure("malformed", f"the reply is longer than {_MAX_BODY_BYTES >> 20} MiB")
        return read_completion(body, request) if status == 200 else self._judge(status, headers, body)

    async def _post(self, request: GenerationRequest) -> tuple[int, Mapping[str, str], bytes | None]:
        config = self.owner.config
        if self.client is None:
            http = self.owner.http
            self.client = http.AsyncClient(
                timeout=http.Timeout(config.timeout_s, connect=config.connect_timeout_s),
                limits=http.Limits(max_connections=config.concurrency),
                headers=self.owner.headers,
                trust_env=config.trust_env,
            )
        content = {
            **config.extra_body,
            "model": config.model,
            "messages": [message.to_dict() for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        key = {"Idempotency-Key": request.key(config.model)}
        # A time-out of the client's counts each read; a server that trickles must end too.
        try:
            async with asyncio.timeout(config.timeout_s + config.connect_timeout_s):
                async with self.client.stream("POST", config.url, json=content, headers=key) as response:
                    return response.status_code, response.headers, await _read(response)
        except TimeoutError as error:
            raise self.owner.http.ReadTimeout("the whole reply") from error

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | _Retry:
        code = error_code(body)
        named = f"HTTP {status}" + (f", {code}" if code else "")
        config = self.owner.config
        if status in _REFUSED_KEY:
            setting = (
                f"the key in the environment variable {config.api_key_env} (setting api_key_env)"
                if config.api_key_env
                else "api_key_env: no key was sent; name the variable that holds it"
            )
            raise GeneratorError(f"{self._where} refused access ({named}); check {setting}")
        if status == 402 or (status == 429 and is_out_of_quota(code)):
            raise GeneratorError(
                f"{self._where}: the account's quota is used up ({named}). Finished work is kept"
            )
        if status in _NOT_THERE:
            raise GeneratorError(
                f"{self._where} knows no such address or model ({named}); check base_url (it ends in /v1) "
                f"and model ({config.model})"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return _Retry(named, wait=retry_after(headers.get("Retry-After")))
        if 300 <= status < 400:
            raise GeneratorError(f"{self._where} redirects ({named}); give the final address as base_url")
        return GenerationFailure("not_accepted", named)

    @property
    def _where(self) -> str:
        return f"the endpoint {self.owner.config.base_url}"


async def _read(response: "httpx2.Response") -> bytes | None:
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > _MAX_BODY_BYTES:
            return None
        pieces.append(piece)
    return b"".join(pieces)
