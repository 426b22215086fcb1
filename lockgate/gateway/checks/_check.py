"""One exchange that the guard reads for a client, whose answer the client brings in pieces."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lockgate.exchanges import Message
from lockgate.gateway._answers import given_up, refused
from lockgate.gateway._clients import Client
from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError
from lockgate.gateway._events import Event, Finished, Unserved
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import EngineDown, QueueFull

RETRY_SECONDS = 1
# Seconds that the end of a check may wait for its record. The log itself gives up earlier.
LONGEST_RECORDING = 5.0
_LATE = "The guard has not read the text in time. Nothing of it is cleared."
_STOPPED = "The check was stopped."


class Check:
    """An exchange under the engine. Only the event loop uses it; the engine's threads post their news to it.

    Attributes:
        id: its id in the decision log. Nobody can guess it.
        stage: the last stage that was asked; None while the check is open.
        received: characters of the answer that were given.
        released: characters of it that are cleared. They are its first ones.
        begun: whether the prompt is read and cleared.
        ended: whether the answer is whole.
        finished: the closing event; None while the check is open.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._job: Job | None = None  # while the check is open
        self._read = 0  # characters that the engine has read
        self.id = f"check-{secrets.token_hex(16)}"
        self.stage: int | None = None
        self.received = 0
        self.released = 0
        self.begun = False
        self.ended = False
        self.finished: Finished | None = None

    @property
    def waits(self) -> bool:
        """Whether the engine has not opened the check yet."""
        return self._job is not None and self._job.started is None

    def deliver(self, event: Event) -> None:
        """Take an event of the engine. Any thread may call this."""
        self._post(lambda: self._take(event))

    def submit(self, job: Job) -> None:
        """Let the engine read `job`.

        Raises:
            ApiError: too many requests wait (429), or the server takes none (503).
        """
        job.id = self.id
        job.begin = lambda: self._post(self._begin)
        job.caught_up = lambda _, characters: self._post(lambda: self._catch_up(characters))
        try:
            self._engine.submit(job)
        except (QueueFull, EngineDown) as error:
            raise refused(error) from None
        self._job = job

    def give(self, text: str) -> None:
        """Take more text of the answer. A check that is over reads nothing more."""
        self.received += len(text)
        if self._job is not None:
            self._engine.give(self._job, 0, text)

    def end(self) -> None:
        """Say that the answer is whole. A check that is over stays as it is."""
        self.ended = True
        if self._job is not None:
            self._engine.end_given(self._job, 0, "stop")

    def cancel(self) -> None:
        """End the check without a decision. A check that is over stays as it is."""
        if self._job is not None:
            self._engine.cancel(self._job)

    def give_up(self, code: str, why: str) -> None:
        """End the check without a decision, and say why in the decision log."""
        if self._job is not None:
            self._engine.give_up(self._job, Unserved(503, code, why, RETRY_SECONDS))

    async def until_begun(self, deadline: float) -> None:
        """Wait until the prompt is cleared or the check is over. Raises ApiError, as `_wait` does."""
        await self._wait(lambda: self.begun, deadline)

    async def until_read(self, deadline: float) -> None:
        """Wait until all that was given is read, or the check is over. Raises ApiError, as `_wait` does."""
        await self._wait(lambda: self._read >= self.received and self.begun, deadline)

    async def until_finished(self, deadline: float) -> Finished:
        """Wait for the decision. Raises ApiError, as `_wait` does."""
        await self._wait(lambda: False, deadline)
        if self.finished is None:
            raise RuntimeError("a check ended without a decision")
        return self.finished

    async def _wait(self, ready: Callable[[], bool], deadline: float) -> None:
        """Wait until `ready` or the check is over.

        Raises:
            ApiError: the deadline, in the loop's time, has passed (503), or the check was given up (503).
        """
        try:
            async with asyncio.timeout_at(deadline):
                while self.finished is None and not ready():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self.give_up("check_timeout", _LATE)
            # The record comes first, as for any end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_RECORDING):
                    while self.finished is None:
                        self._news.clear()
                        await self._news.wait()
            raise given_up(Unserved(503, "check_timeout", _LATE, RETRY_SECONDS)) from None
        if self.finished is not None and self.finished.given_up:
            raise given_up(self.finished.unserved or Unserved(503, "unavailable", _STOPPED, RETRY_SECONDS))

    def _post(self, change: Callable[[], None]) -> None:
        # The loop may be closed; then nobody waits for the news.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(change)

    def _take(self, event: Event) -> None:
        if isinstance(event, Finished):
            state = None if self._job is None else self._job.streams[0].state
            self.stage = None if state is None else state.stage
            # The job holds the prompt. What is over may be remembered for long.
            self.finished, self._job = event, None
        else:
            self.released += len(event.text)
        self._news.set()

    def _begin(self) -> None:
        self.begun = True
        self._news.set()

    def _catch_up(self, characters: int) -> None:
        self._read = characters
        self._news.set()


async def new_check(
    gateway: Gateway,
    messages: Sequence[Message],
    client: Client,
    *,
    answer_tokens: int | None = None,
    aside: bool = False,
) -> tuple[Check, Job]:
    """Make a check of an answer to `messages`, and the job with which it is submitted.

    Args:
        answer_tokens: length of the answer, if it is known. Otherwise it takes the server's default memory.
        aside: whether the check only repeats what another one reads, so that it counts for no limit.

    Raises:
        ApiError: the server has no guard, or the messages can't be read (400).
    """
    check = Check(gateway.engine)
    job = await gateway.prepare_given(messages, check.deliver, client, max_tokens=answer_tokens, aside=aside)
    # Its caller shows the text itself, and is told which stage judged.
    job.release = "token"
    return check, job


async def no_room(_: Check) -> None:
    """Make no room for a check that waits."""


def alone(_: Job) -> None:
    """Judge a job without regard to other exchanges."""


async def judge(
    gateway: Gateway,
    messages: Sequence[Message],
    answer: str,
    client: Client,
    deadline: float,
    make_room: Callable[[Check], Awaitable[None]] = no_room,
    follow: Callable[[Job], None] = alone,
    *,
    aside: bool = False,
) -> Check:
    """Let the guard judge a whole exchange. An empty answer leaves the prompt alone to judge.

    Args:
        deadline: when the decision must be there, in the loop's time.
        make_room: called with the check while the engine may have no room for it.
        follow: called with the job before it is submitted, to judge it in the light of its conversation.
        aside: as in `new_check`.

    Raises:
        ApiError: the exchange can't be read (400), or the guard can't judge it in time (429, 503).
    """
    tokens = await gateway.count_answer(answer)
    check, job = await new_check(gateway, messages, client, answer_tokens=tokens + 1, aside=aside)
    follow(job)
    check.submit(job)
    try:
        check.give(answer)
        check.end()
        await make_room(check)
        await check.until_finished(deadline)
    finally:
        if check.finished is None:
            check.cancel()
    return check


def deadline_of(gateway: Gateway) -> float:
    """Return when a call that begins now must have its answer, in the loop's time."""
    return asyncio.get_running_loop().time() + gateway.options.checks.wait_timeout


def guard_failed() -> ApiError:
    """Return the error for a check that the guard could not make."""
    return ApiError(
        503,
        f"The guard could not check this text. Try again in {RETRY_SECONDS} s.",
        kind="server_error",
        code="check_failed",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def describe(check: Check, mode: str) -> dict[str, Any]:
    """Return the fields of an answer about a check that may still be open."""
    end = check.finished
    return {
        "mode": mode,
        "decision": None if end is None else end.decision,
        "enforced": mode == "enforce" if end is None else end.enforced,
        "stage": check.stage,
        "category": None if end is None else end.category,
        "refusal": None if end is None else end.refusal,
        "received": check.received,
        "released": check.released,
    }
