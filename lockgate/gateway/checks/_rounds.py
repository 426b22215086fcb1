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
# Calls whose prompt is known to be gone, so that their answers can't be judged as if they had none.
MOST_FORGOTTEN = 16_384


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


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt that is remembered. `size` is what it counts."""

    owner: str
    messages: Sequence[Message]
    size: int


class Rounds:
    """The prompts and open answers of all calls. Only the event loop uses it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._most = gateway.options.engine.max_streams
        self._prompts: OrderedDict[str, _Prompt] = OrderedDict()
        self._characters: dict[str, int] = {}  # of the prompts of each owner
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._answers: list[Answer] = []  # the one that has rested longest is first

    def remember(self, call: str, owner: str, messages: Sequence[Message]) -> None:
        """Keep the prompt of a call until its answers come.

        If they are too many, the oldest of the owner that has most text is forgotten. So nobody can have the
        prompts of others forgotten.
        """
        self._drop(call)
        self._forgotten.pop(call, None)
        # Many short prompts cost memory too.
        size = max(_characters(messages), MOST_PROMPT_CHARACTERS // MOST_PROMPTS)
        self._prompts[call] = _Prompt(owner, messages, size)
        self._characters[owner] = self._characters.get(owner, 0) + size
        while sum(self._characters.values()) > MOST_PROMPT_CHARACTERS:
            largest = max(self._characters, key=self._characters.__getitem__)
            self.forget(next(one for one, kept in self._prompts.items() if kept.owner == largest))

    def forget(self, call: str) -> None:
        """Forget the prompt of a call for good. Its answers can't be judged any more."""
        self._drop(call)
        self._forgotten[call] = None
        if len(self._forgotten) > MOST_FORGOTTEN:
            self._forgotten.popitem(last=False)

    def has_forgotten(self, call: str) -> bool:
        """Tell whether the prompt of a call was known and is gone."""
        return call in self._forgotten

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
        # The answer's own check counts for limits. This one only looks ahead.
        found = await self._judge(messages, text, client, deadline, answer, aside=True)
        return Outcome(found.stopped, held)

    async def _judge(
        self,
        messages: Sequence[Message],
        text: str,
        client: Client,
        deadline: float,
        own: Answer | None = None,
        *,
        aside: bool = False,
    ) -> Outcome:
        def make_room(check: Check) -> Awaitable[None]:
            return self._make_room(check, own)

        found = await judge(
            self._gateway.of(client), messages, text, client, deadline, make_room, aside=aside
        )
        return _outcome(found.finished)

    async def _open(self, call: str, messages: Sequence[Message], client: Client) -> Answer:
        check, job = await new_check(self._gateway.of(client), messages, client)
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
        found = self._prompts.get(call)
        return (Message("user", ""),) if found is None else found.messages

    def _drop(self, call: str) -> None:
        found = self._prompts.pop(call, None)
        if found is not None:
            self._characters[found.owner] -= found.size
            if not self._characters[found.owner]:
                del self._characters[found.owner]


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
