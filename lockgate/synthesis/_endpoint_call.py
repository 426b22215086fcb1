"""One call of an endpoint generator: requests in flight, retries, pauses and spent tokens."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from secrets import SystemRandom

from lockgate.errors import BudgetExhausted, GeneratorError, LockgateError
from lockgate.synthesis._endpoint_attempt import Retry, Sender
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._endpoint_health import Health
from lockgate.synthesis._requests import Completion, GenerationFailure, GenerationRequest, Outcome
from lockgate.synthesis._usage import Budget, Usage, count_completion

Sleep = Callable[[float], Awaitable[None]]

_random = SystemRandom()


@dataclass(slots=True)
class EndpointCall:
    """One call of `stream`. Its event loop runs only while the caller waits for an outcome.

    `usage`, `budget` and `health` belong to the generator and count over all its calls.
    """

    requests: Sequence[GenerationRequest]
    config: EndpointConfig
    sender: Sender
    usage: Usage
    budget: Budget
    health: Health
    sleep: Sleep
    error: LockgateError | None = None
    next_index: int = 0
    tasks: dict["asyncio.Task[Outcome]", int] = field(default_factory=dict)
    waiting: set["asyncio.Task[Outcome]"] = field(default_factory=set)
    not_before: float = 0.0

    async def next_finished(self) -> list[tuple[int, Outcome]]:
        """Return the next outcomes. The list is empty at the end, or after an error with none in flight."""
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
                elif isinstance(error, GeneratorError | BudgetExhausted):
                    self._stop(error)
                else:
                    raise error
            if finished:
                return finished

    def _start(self) -> None:
        config = self.config
        while (
            self.error is None
            and len(self.tasks) < config.concurrency
            and self.next_index < len(self.requests)
        ):
            request = self.requests[self.next_index]
            if not self.budget.has_room([*self._in_flight(), request]):
                # Answers use less than their reservations, so there may be room when the others are done.
                if not self.tasks:
                    self._stop(self.budget.exhausted())
                return
            self.tasks[asyncio.ensure_future(self._answer(request))] = self.next_index
            self.next_index += 1

    def _in_flight(self) -> list[GenerationRequest]:
        return [self.requests[index] for task, index in self.tasks.items() if not task.done()]

    def _stop(self, error: LockgateError) -> None:
        self.error = self.error or error
        # Requests at the server are paid for, so the call waits for them. Requests in a pause are cancelled.
        for task in self.waiting:
            task.cancel()

    async def close(self) -> None:
        """Cancel the requests in flight and close the connections."""
        # A signal that ends the process leaves `next_finished` pending on this loop. It must start no more.
        self.next_index = len(self.requests)
        for task, index in self.tasks.items():
            if not task.done() and task not in self.waiting:
                self._spend_lost(self.requests[index])
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        await self.sender.close()

    async def _answer(self, request: GenerationRequest) -> Outcome:
        config = self.config
        for attempt in range(config.retries + 1):
            if attempt or self.not_before > time.monotonic():
                await self._wait(attempt)
            if self.error is not None:
                raise GeneratorError("another request stopped the run")
            if attempt and not self.budget.has_room(self._in_flight()):
                raise self.budget.exhausted()
            made = await self.sender.send(request)
            result = made.result
            if not isinstance(result, Retry):
                self._count(request, result, lost=made.lost)
                self.health.note(result, self.sender.where)
                return result
            if made.lost:
                self._spend_lost(request)
            if result.wait is not None:
                self._hold(result.wait)
            if attempt == config.retries:
                return self._give_up(result)
            self.usage.retries += 1
        raise AssertionError("the last attempt returns or raises")

    def _count(self, request: GenerationRequest, outcome: Outcome, *, lost: bool) -> None:
        if isinstance(outcome, Completion):
            count_completion(self.usage, request, outcome)
            self.budget.spend(outcome.prompt_tokens, outcome.completion_tokens)
            return
        # The completion tokens of a failed answer are unknown, but its prompt was read.
        self.usage.failures += 1
        self.usage.add(request, request.estimated_prompt_tokens, 0)
        if lost:
            self._spend_lost(request)
        else:
            self.budget.spend(request.estimated_prompt_tokens, 0)

    def _spend_lost(self, request: GenerationRequest) -> None:
        """Spend a full reservation, since a lost completion may have been written to its end and billed."""
        self.budget.spend(request.estimated_prompt_tokens, request.max_tokens)

    def _hold(self, seconds: float) -> None:
        """Hold back all requests, because a Retry-After concerns the endpoint and not one request."""
        if seconds > self.config.longest_wait_s:
            raise GeneratorError(
                f"{self.sender.where} asks to wait {seconds:.0f} s, more than longest_wait_s "
                f"({self.config.longest_wait_s:.0f}). Finished work is kept; run again later"
            )
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    async def _wait(self, attempt: int) -> None:
        config = self.config
        ceiling = min(config.longest_wait_s, config.backoff_s * 2.0**attempt)
        task = asyncio.current_task()
        if task is not None:
            self.waiting.add(task)
        try:
            until = -1.0
            # Another reply may ask for a longer wait while this request sleeps.
            while until < self.not_before:
                until = self.not_before
                held = max(0.0, until - time.monotonic())
                # Full jitter, also after a Retry-After: requests must not come back at the same moment.
                await self.sleep(held + _random.uniform(0.0, ceiling))
        finally:
            if task is not None:
                self.waiting.discard(task)

    def _give_up(self, result: Retry) -> Outcome:
        tries = f"{self.config.retries + 1} attempts"
        if result.reached and self.config.give_up == "reject":
            self.usage.failures += 1
            return GenerationFailure("no_answer", f"{result.reason} after {tries}")
        raise GeneratorError(
            f"{self.sender.where} gave no answer in {tries} ({result.reason}). Finished work is kept; check "
            "base_url and that the server runs, lower concurrency if it is overloaded, and run again"
        )
