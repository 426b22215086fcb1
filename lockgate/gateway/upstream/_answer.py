"""The response to one request in upstream mode: the guard reads the prompt, then the upstream is asked."""

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import httpx2
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lockgate.gateway._answers import PING, PING_SECONDS, STREAM_HEADERS, cancel_on_disconnect, refused
from lockgate.gateway._errors import ApiError, json_response
from lockgate.gateway._events import Event, Finished
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import EngineDown, LogDown, QueueFull
from lockgate.gateway.upstream._client import UpstreamClient, UpstreamError, upstream_faults
from lockgate.gateway.upstream._dialect import Asked, Dialect, Stopped, Transcript
from lockgate.gateway.upstream._relay import Relay, cancelled
from lockgate.gateway.upstream._wrong import PassedError, decoded, names_twice

# A client that waits for a stream gets a status after this time, even if the upstream has not answered. Later
# errors are events of the stream then.
LONGEST_SILENCE = 10.0
# Bytes of an upstream's error that are passed on.
LONGEST_ERROR = 64 * 1024
# What tells a client that an answer leaves unguarded: a header, or a comment in a stream that has begun.
UNGUARDED = (b"x-lockgate-unguarded", b"the guard failed")
_COMMENT = b": " + b": ".join(UNGUARDED) + b"\n\n"
# Seconds, or a date.
_WAIT = re.compile(r"[0-9]{1,9}|[A-Z][a-z]{2}, [0-9A-Za-z: ]{1,30}")


@dataclass(frozen=True, slots=True)
class Call:
    """What a request needs on its way: who guards it, who answers it, and how.

    Attributes:
        headers: headers for the upstream.
    """

    gateway: Gateway
    client: UpstreamClient
    dialect: Dialect
    asked: Asked
    headers: Mapping[str, str]

    def body(self) -> bytes:
        """Return the request's body for the upstream."""
        return self.client.encode(self.asked.payload)


class RelayedAnswer(Response):
    """A response that runs one guarded request. If the client leaves, the job and the upstream's answer end.

    Args:
        events: the job's events. None says that the prompt is cleared.
    """

    def __init__(self, call: Call, job: Job, events: "asyncio.Queue[Event | None]") -> None:
        super().__init__()
        self._call = call
        self._job = job
        self._events = events
        self._transcript: Transcript = call.dialect.open(call.asked)
        self._begun = self._over = False
        self._unguarded = self._said = False
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = self._call.gateway.engine
        try:
            engine.submit(self._job)
        except (QueueFull, EngineDown) as error:
            # What can't be recorded does not leave, whatever the route says about the guard.
            unseen = isinstance(error, QueueFull | LogDown)
            if unseen or engine.stopping or not self._job.opens:
                await self._refuse(refused(error), send)
                return
            engine.leave_unread(self._job)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
                if self._call.asked.stream:
                    group.start_soon(self._keep_open, send)
                await self._respond(send)
                self._over = True
                group.cancel_scope.cancel()
        finally:
            engine.cancel(self._job)

    async def _respond(self, send: Send) -> None:
        try:
            first = await self._events.get()
            if first is not None and not self._leaves_unguarded(first):
                await self._stop_at_prompt(first, send)
                return
            if first is not None:
                self._events.put_nowait(first)  # like any choice that leaves unguarded
            call = self._call
            async with call.client.send("POST", call.dialect.path, call.headers, call.body()) as response:
                if response.status_code != 200:
                    await self._refuse(await error_of(call.client, response), send)
                elif call.asked.stream:
                    await self._stream(response, send)
                else:
                    await self._send_json(await self._whole(response), send)
        except ApiError as error:
            await self._refuse(error, send)

    def _leaves_unguarded(self, event: Event) -> bool:
        """Tell whether a choice goes on although the guard has failed, and remember to tell the client."""
        fails = isinstance(event, Finished) and event.decision == "error" and not event.enforced
        self._unguarded = self._unguarded or (fails and self._job.opens)
        return fails

    def _told(self) -> list[tuple[bytes, bytes]]:
        """Return the header that says that nothing guards the answer, if so."""
        self._unguarded = self._unguarded or (self._job.opens and self._job.broken)
        return [UNGUARDED] if self._unguarded else []

    async def _stop_at_prompt(self, event: Event, send: Send) -> None:
        """End a request whose prompt was stopped or not read. The upstream is never asked."""
        if not isinstance(event, Finished):
            raise RuntimeError("text was released before the prompt was cleared")
        if event.refusal is None:
            await self._refuse(cancelled(event), send)
            return
        status = self._call.gateway.options.block_input_status
        if status != 200 and event.decision == "block":
            await self._refuse(ApiError(status, event.refusal, param="messages", code="content_filter"), send)
            return
        stopped = Stopped(event.refusal, len(self._job.prompt), 0)
        choices = range(self._call.asked.choices)
        if self._call.asked.stream:
            halts = b"".join(self._transcript.halt(choice, stopped) for choice in choices)
            await self._send(send, halts + self._transcript.close(stopped), more=False)
        else:
            body = self._transcript.stop_whole(None, dict.fromkeys(choices, stopped))
            await self._send_json(json_response(body), send)

    async def _stream(self, response: httpx2.Response, send: Send) -> None:
        relay = Relay(self._call.gateway.engine, self._job, self._transcript, self._look_again)
        source = httpx2.EventSource(response, self._call.client.options.max_event_bytes)
        pump = asyncio.ensure_future(_pumped(relay, source))
        pump.add_done_callback(lambda _: self._look_again())
        try:
            while not relay.over:
                data = self._next(relay, await self._events.get(), pump)
                while not (self._events.empty() or relay.failure):
                    data += self._next(relay, self._events.get_nowait(), pump)
                if data:
                    await self._send(send, data)
                if relay.failure is not None:
                    raise relay.failure
            await self._send(send, relay.closing(), more=False)
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump

    def _look_again(self) -> None:
        self._events.put_nowait(None)

    def _next(self, relay: Relay, event: Event | None, pump: "asyncio.Future[UpstreamError | None]") -> bytes:
        if event is not None:
            self._leaves_unguarded(event)
            return relay.take(event)
        data = relay.flush()
        if pump.done() and not relay.exhausted:
            relay.exhausted = True
            if (error := pump.result()) is not None:
                relay.break_off(error)
        return data + relay.flush()

    async def _whole(self, response: httpx2.Response) -> Response:
        raw = await self._call.client.read(response)
        body = decoded(raw)
        engine, job = self._call.gateway.engine, self._job
        for choice, text in self._transcript.read_whole(body):
            engine.give(job, choice, text + self._transcript.leave(choice))
        for choice in range(job.n):
            engine.end_given(job, choice, "stop")
        stopped: dict[int, Stopped] = {}
        for _ in range(job.n):
            event = await self._finished()
            self._leaves_unguarded(event)
            if event.given_up:
                raise cancelled(event)
            if event.refusal is not None:
                stopped[event.choice] = Stopped(event.refusal, len(job.prompt), event.completion_tokens)
        if not stopped:
            return json_response(body) if names_twice(raw) else Response(raw, media_type="application/json")
        return json_response(self._transcript.stop_whole(body, stopped))

    async def _finished(self) -> Finished:
        while True:
            event = await self._events.get()
            if isinstance(event, Finished):
                return event

    async def _refuse(self, error: ApiError, send: Send) -> None:
        """Answer with an error: as a status, or inside the stream if its status has left."""
        if self._begun:
            await self._send(send, self._transcript.fail(error), more=False)
        else:
            body = json_response(self._call.dialect.error(error), error.status, error.headers)
            await self._send_json(body, send)

    async def _send_json(self, response: Response, send: Send) -> None:
        self._begun = self._over = True
        headers = [*response.raw_headers, *(self._told() if response.status_code == 200 else ())]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": False})

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._over = self._over or not more
        self._last = time.monotonic()
        told = self._told()
        if not self._begun:
            self._begun = True
            headers = [*STREAM_HEADERS, *told]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        elif told and not self._said:
            body = _COMMENT + body  # the headers have left already
        self._said = bool(told)
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _keep_open(self, send: Send) -> None:
        """Send comments while nothing else may leave, so that nobody closes the stream for its silence."""
        await anyio.sleep(LONGEST_SILENCE)
        while not self._over:
            if (wait := self._last + PING_SECONDS - time.monotonic()) > 0:
                await anyio.sleep(wait)
            else:
                await self._send(send, PING)


async def _pumped(relay: Relay, source: httpx2.EventSource) -> UpstreamError | None:
    """Run a relay's pump. Return what the upstream did wrong."""
    try:
        with upstream_faults():
            await relay.pump(source)
    except UpstreamError as error:
        return error
    return None


async def error_of(client: UpstreamClient, response: httpx2.Response) -> ApiError:
    """Return the error for a status other than 200: the upstream's own, if it is JSON."""
    status = response.status_code if 400 <= response.status_code <= 599 else 502
    wait = response.headers.get("retry-after", "")
    headers = {"retry-after": wait} if _WAIT.fullmatch(wait) else {}
    try:
        body = decoded(await client.read(response, LONGEST_ERROR))
    except UpstreamError:
        body = {}
    if status == response.status_code and isinstance(body.get("error"), dict | str):
        return PassedError(status, body, headers)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    message = f"The upstream answered with HTTP {response.status_code}."
    return ApiError(status, message, kind=kind, code="upstream_error", headers=headers)
