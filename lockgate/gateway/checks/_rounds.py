"""Answers that a proxy shows again and again, each time with all of their text so far.

A round gives only the new text to the check of the same answer. Of text that was read, only a hash is kept.
The proxy never says which round is the last. So held text is judged as if the answer ended there, by a check
of its own: otherwise the last round could let text out that nobody has judged.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from lockgate.exchanges import Message
from lockgate.gateway._clients import Client
from lockgate.gateway._events import Finished
from lockgate.gateway._gateway import Gateway
from lockgate.gateway.checks._check import Check, judge, new_check

# The proxy does not say that an answer is over, so its check ends after this many seconds without a round.
IDLE_SECONDS = 10.0
# While the engine has no room, the answer that has rested longest is ended, one after this many seconds.
PATIENCE_SECONDS = 0.25
# Prompts that are remembered for the answers to them: their number and their characters.
MOST_PROMPTS = 1024
MOST_PROMPT_CHARACTERS = 16_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the guard says about an answer so far: the closing event of one that was stopped.

    `held` is the number of characters at its end that may not leave yet.
    """

    stopped: Finished | None
    held: int = 0


@dataclass(slots=True, eq=False)
class Answer:
    """An answer of a call that is being read. Once it is `stopped`, it stays so in later rounds."""

    call: str
    check: Check
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    stopped: Finished | None = None
    busy: bool = True
    timer: asyncio.TimerHandle | None = None

    def is_start_of(self, text: str) -> bool:
        """Tell whether `text` goes on from what was read. Nothing goes on from a check that is over."""
        if self.stopped is None and (self.check.ended or self.check.finished is not None):
            return False
        known = text[: self.check.received]
        same = hashlib.sha256(known.encode()).digest() == self.digest.digest()
        return len(known) == self.check.received and same

    def take(self, text: str) -> None:
        """Give the part of `text` that is new to the check."""
        new = text[self.check.received :]
        if new:
            self.digest.update(new.encode())
            self.check.give(new)


class Rounds:
    """The prompts and open answers of all calls. Only the event loop uses it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._most = gateway.options.engine.max_streams
        self._prompts: OrderedDict[str, Sequence[Message]] = OrderedDict()
        self._characters = 0
        self._answers: list[Answer] = []  # the one that has rested longest is first

    def remember(self, call: str, messages: Sequence[Message]) -> None:
        """Keep the prompt of a call until its answers come. The oldest are forgotten if they are too many."""
        self._forget(call)
        self._prompts[call] = messages
        self._characters += _characters(messages)
        while len(self._prompts) > MOST_PROMPTS or self._characters > MOST_PROMPT_CHARACTERS:
            self._forget(next(iter(self._prompts)))

    async def judge_prompt(self, messages: Sequence[Message], client: Client, deadline: float) -> Outcome:
        """Judge a prompt alone. Raises ApiError, as `judge` does."""
        return await self._judge(messages, "", client, deadline)

    async def read(self, call: str, texts: Sequence[str], client: Client, deadline: float) -> list[Outcome]:
        """Read the answers of a call as far as they have come. Raises ApiError, as `judge` does."""
        messages = self._prompt(call)
        return await _all([self._read(call, messages, text, client, deadline) for text in texts])

    async def judge_answers(
        self, call: str, texts: Sequence[str], client: Client, deadline: float
    ) -> list[Outcome]:
        """Judge answers that are whole, such as tool calls. Raises ApiError, as `judge` does."""
        messages = self._prompt(call)
        return await _all([self._judge(messages, text, client, deadline) for text in texts])

    async def _read(
        self, call: str, messages: Sequence[Message], text: str, client: Client, deadline: float
    ) -> Outcome:
        answer = self._find(call, text) or await self._open(call, messages, client)
        try:
            outcome = Outcome(answer.stopped)
            if answer.stopped is None:
                outcome = await self._go_on(answer, messages, text, client, deadline)
        except BaseException:
            # How much is read is no longer known. The next round starts again.
            answer.check.cancel()
            self._answers.remove(answer)
            raise
        answer.stopped = outcome.stopped
        if answer.stopped is not None:
            answer.check.end()
        self._rest(answer)
        return outcome

    async def _go_on(
        self, answer: Answer, messages: Sequence[Message], text: str, client: Client, deadline: float
    ) -> Outcome:
        """Read what is new in `text`."""
        check = answer.check
        answer.take(text)
        await self._make_room(check)
        await check.until_read(deadline)
        if check.finished is not None:
            return _outcome(check.finished)
        held = check.received - check.released
        if not held:
            return Outcome(None)
        return Outcome((await self._judge(messages, text, client, deadline, answer)).stopped, held)

    async def _judge(
        self,
        messages: Sequence[Message],
        text: str,
        client: Client,
        deadline: float,
        own: Answer | None = None,
    ) -> Outcome:
        def make_room(check: Check) -> Awaitable[None]:
            return self._make_room(check, own)

        return _outcome((await judge(self._gateway, messages, text, client, deadline, make_room)).finished)

    async def _open(self, call: str, messages: Sequence[Message], client: Client) -> Answer:
        check, job = await new_check(self._gateway, messages, client)
        check.submit(job)
        answer = Answer(call, check)
        self._answers.append(answer)
        return answer

    def _find(self, call: str, text: str) -> Answer | None:
        """Take the open answer that `text` goes on from. Of several, the longest."""
        found = [one for one in self._answers if one.call == call and not one.busy and one.is_start_of(text)]
        answer = max(found, key=lambda one: one.check.received, default=None)
        if answer is not None:
            answer.busy = True
            if answer.timer is not None:
                answer.timer.cancel()
        return answer

    def _rest(self, answer: Answer) -> None:
        """Let an answer wait for its next round."""
        answer.busy = False
        self._answers.remove(answer)
        self._answers.append(answer)
        answer.timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end, answer)
        while len(self._answers) > self._most and (oldest := self._resting()) is not None:
            self._end(oldest)

    def _end(self, answer: Answer) -> None:
        """Take an answer as whole. Its decision line is written and its memory freed."""
        if answer.timer is not None:
            answer.timer.cancel()
        self._answers.remove(answer)
        answer.check.end()

    def _resting(self) -> Answer | None:
        return next((one for one in self._answers if not one.busy), None)

    async def _make_room(self, check: Check, own: Answer | None = None) -> None:
        """End checks while the engine has no room for `check`: of answers that rest, at last of `own`."""
        while check.waits and (victim := self._resting() or own) is not None:
            await asyncio.sleep(PATIENCE_SECONDS)
            if not check.waits:
                return
            if victim is own:
                victim.check.end()
                return
            if victim in self._answers and not victim.busy:
                self._end(victim)

    def _prompt(self, call: str) -> Sequence[Message]:
        """Return the prompt of a call. If only answers are shown, it is not known."""
        return self._prompts.get(call, (Message("user", ""),))

    def _forget(self, call: str) -> None:
        self._characters -= _characters(self._prompts.pop(call, ()))


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def _outcome(end: Finished | None) -> Outcome:
    """Return what a closing event says. One that is not enforced stops nothing."""
    if end is None:
        raise RuntimeError("a check ended without a decision")
    return Outcome(end if end.enforced else None)


async def _all(works: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """Run all of `works`. If one fails, the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
