"""Send the engine's events to the client, as a stream of chunks or as one completion."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lockgate.gateway import _wire as wire
from lockgate.gateway._errors import ApiError, error_response, json_response
from lockgate.gateway._events import Event, Finished, Released, ReleasedToken, Unserved
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import RESTART_SECONDS, EngineDown, LogDown, QueueFull
from lockgate.gateway._requests import ChatRequest

# Proxies and clients close a stream that stays silent, and nothing can be sent while a long prompt is read.
# A comment keeps the stream open. It tells nothing about the answer, and clients ignore it.
PING = b": ping\n\n"
PING_SECONDS = 1.5

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Answer(Response):
    """A response that runs one job and sends its events. It ends the job when the client leaves."""

    def __init__(
        self, gateway: Gateway, request: ChatRequest, job: Job, queue: "asyncio.Queue[Event]", *, risk: bool
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._request = request
        self._job = job
        self._queue = queue
        self._risk = risk
        self._begun = False
        base = {"id": job.id, "created": int(time.time()), "model": gateway.model_id}
        self._base: dict[str, Any] = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._gateway.engine.submit(self._job)
        except (QueueFull, EngineDown) as error:
            await error_response(refused(error))(scope, receive, send)
            return
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
                await self._respond(scope, receive, send)
                group.cancel_scope.cancel()
        finally:
            self._gateway.engine.cancel(self._job)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._request.stream and self._gateway.options.block_input_status == 200:
            first = await self._next(send)
        else:
            # The HTTP status depends on the prompt, so it waits for the first event.
            first = await self._queue.get()
        unserved = _unserved(first)
        if unserved is not None and not self._begun:
            await error_response(given_up(unserved))(scope, receive, send)
        elif self._is_refused_input(first):
            await error_response(_blocked(first))(scope, receive, send)
        elif self._request.stream:
            await self._stream(first, send)
        else:
            await (await self._complete(first))(scope, receive, send)

    async def _next(self, send: Send) -> Event:
        """Wait for the next event of a stream. Send comments while there is none, to keep the stream open."""
        while self._queue.empty():
            with anyio.move_on_after(PING_SECONDS):
                return await self._queue.get()
            await self._send(send, PING)
        return self._queue.get_nowait()

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        if not self._begun:
            self._begun = True
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send({"type": "http.response.body", "body": body, "more_body": more})

    def _is_refused_input(self, event: Event) -> bool:
        status = self._gateway.options.block_input_status
        return status != 200 and isinstance(event, Finished) and event.enforced and event.decision == "block"

    async def _events(self, first: Event, send: Send | None = None) -> AsyncIterator[Event]:
        open_choices, event = self._request.n, first
        while True:
            open_choices -= isinstance(event, Finished)
            yield event
            if not open_choices:
                return
            event = await (self._queue.get() if send is None else self._next(send))

    async def _stream(self, first: Event, send: Send) -> None:
        started: set[int] = set()
        completion_tokens = 0
        async for event in self._events(first, send):
            unserved = _unserved(event)
            if unserved is not None:
                # The status has left, so the stream itself must say that it is not whole.
                await self._send(send, wire.sse(given_up(unserved).body()) + wire.DONE, more=False)
                return
            if isinstance(event, Finished):
                completion_tokens += event.completion_tokens
            for chunk in self._chunks(event, first_of_choice=event.choice not in started):
                started.add(event.choice)
                await self._send(send, wire.sse(chunk))
        tail = b""
        if self._request.include_usage:
            base = {key: value for key, value in self._base.items() if key != "usage"}
            tail = wire.sse(wire.usage_chunk(base, len(self._job.prompt), completion_tokens))
        await self._send(send, tail + wire.DONE, more=False)

    def _chunks(self, event: Event, *, first_of_choice: bool) -> Iterator[dict[str, Any]]:
        base = {**self._base, "usage": None} if self._request.include_usage else self._base
        if first_of_choice:
            yield wire.chunk(base, event.choice, {"role": "assistant", "content": ""})
        if isinstance(event, Released):
            tokens = event.tokens if self._request.sampling.logprobs else None
            if event.text or tokens or (self._risk and event.tokens):
                chunk = wire.chunk(base, event.choice, {"content": event.text}, tokens=tokens)
                if self._risk:
                    chunk["lockgate"] = wire.risk_tokens(
                        event.tokens, self._threshold_of(event), escalates=self._escalates
                    )
                yield chunk
            return
        if event.refusal is not None:
            yield wire.chunk(base, event.choice, {"refusal": event.refusal})
        last = wire.chunk(base, event.choice, {}, finish_reason=event.reason)
        if self._risk:
            last["lockgate"] = wire.risk_outcome(event)
        yield last

    @property
    def _escalates(self) -> bool:
        scoring = self._gateway.engine.scoring
        return scoring is not None and scoring.stages.second is not None

    def _threshold_of(self, event: Released) -> float | None:
        """Return the threshold of the newest token, which a guard may let rise with the answer."""
        if event.tokens and event.tokens[-1].threshold is not None:
            return event.tokens[-1].threshold
        scoring = self._gateway.engine.scoring
        return None if scoring is None else scoring.stages.alarm

    async def _complete(self, first: Event) -> Response:
        texts: dict[int, list[str]] = {choice: [] for choice in range(self._request.n)}
        tokens: dict[int, list[ReleasedToken]] = {choice: [] for choice in texts}
        ends: dict[int, Finished] = {}
        async for event in self._events(first):
            unserved = _unserved(event)
            if unserved is not None:
                return error_response(given_up(unserved))
            if isinstance(event, Finished):
                ends[event.choice] = event
            else:
                texts[event.choice].append(event.text)
                tokens[event.choice].extend(event.tokens)
        logprobs = self._request.sampling.logprobs
        choices = [
            wire.completion_choice(ends[i], "".join(texts[i]), tokens[i] if logprobs else None) for i in texts
        ]
        use = wire.usage(len(self._job.prompt), sum(end.completion_tokens for end in ends.values()))
        body = wire.completion(self._base, choices, use)
        if self._risk:
            body["lockgate"] = [wire.risk_outcome(ends[i]) for i in texts]
        return json_response(body)


async def cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def refused(error: QueueFull | EngineDown) -> ApiError:
    """Return the error for a job that the engine does not take."""
    if isinstance(error, QueueFull):
        return ApiError(
            429,
            f"Too many requests are waiting. Try again in {error.retry_after} s.",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(error.retry_after)},
        )
    why = ", because it can't record them" if isinstance(error, LogDown) else ""
    return ApiError(
        503,
        f"The server takes no requests now{why}.",
        kind="server_error",
        code="unavailable",
        headers={"Retry-After": str(RESTART_SECONDS)},
    )


def _unserved(event: Event) -> Unserved | None:
    return event.unserved if isinstance(event, Finished) else None


def given_up(unserved: Unserved) -> ApiError:
    return ApiError(
        unserved.status,
        f"{unserved.message} Wait {unserved.retry_after} s.",
        kind="server_error",
        code=unserved.code,
        headers={"Retry-After": str(unserved.retry_after)},
    )


def _blocked(event: Event) -> ApiError:
    refusal = event.refusal if isinstance(event, Finished) else None
    return ApiError(
        400, refusal or "The prompt was stopped by the guard.", param="messages", code="content_filter"
    )
