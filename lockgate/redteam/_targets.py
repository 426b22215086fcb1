"""What is attacked: a writer of answers, with a guard in this process or behind an endpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from lockgate.errors import RedTeamError
from lockgate.exchanges import Exchange, Message
from lockgate.redteam._attempts import Attempt, Reply
from lockgate.redteam._queries import Query
from lockgate.synthesis import (
    Completion,
    GenerationRequest,
    Generator,
    Outcome,
    RequestCache,
    estimate_tokens,
)

if TYPE_CHECKING:
    from lockgate.guards import ExchangeScore, Guard

View = Literal["exchange", "parts"]
# What a classifier of answers sees in place of the prompt.
_NO_PROMPT = Message("user", "...")


@dataclass(frozen=True, slots=True)
class Shot:
    """An attempt on its way to a target."""

    query: Query
    attempt: Attempt
    seed: int


class Target(Protocol):
    """What a campaign attacks."""

    def answer(self, shots: Sequence[Shot]) -> list[Reply]:
        """Return what a client gets for each attempt, in their order.

        Raises:
            GeneratorError: an endpoint can't be used. Replies so far are in the cache.
            RedTeamError: the target can't be asked this.
        """


class Obedient:
    """A model that always answers in full, in the disguise that it is asked for: a guard's hardest case.

    It takes the answer from the attempt, so that a campaign needs no capable model and has no luck in it.
    """

    def answer(self, shots: Sequence[Shot]) -> list[Reply]:
        return [Reply(shot.attempt.answer, False, estimate_tokens(shot.attempt.answer)) for shot in shots]


class Written:
    """A generator's own answers, by a model without a guard or by an endpoint with its own."""

    def __init__(self, generator: Generator, max_tokens: int, temperature: float = 0.0) -> None:
        self._generator = generator
        self._max_tokens = max_tokens
        self._temperature = temperature

    def answer(self, shots: Sequence[Shot]) -> list[Reply]:
        requests = [
            GenerationRequest(
                shot.attempt.messages, self._max_tokens, self._temperature, shot.seed, "redteam"
            )
            for shot in shots
        ]
        return [_reply(outcome) for outcome in self._generator.generate(requests)]


class Guarded:
    """A guard in this process before another target. It sees prompt and answer as serving shows them to it.

    Args:
        inner: what writes the answers.
        guard: the guard.
        cache: where verdicts are kept.
        view: `exchange`, or `parts`: the prompt and the answer are judged one without the other, as by
            separate classifiers of inputs and outputs.
    """

    def __init__(self, inner: Target, guard: "Guard", cache: RequestCache, view: View = "exchange") -> None:
        if not guard.sha256:
            raise RedTeamError("guard: expected one that is saved, so that its verdicts can be kept")
        self._inner = inner
        self._guard = guard
        self._cache = cache
        self._view = view
        placement = guard.backbone.placement
        self._identity = f"guard {guard.sha256} on {placement} by {view}"

    def answer(self, shots: Sequence[Shot]) -> list[Reply]:
        replies = self._inner.answer(shots)
        wholes = [_whole(shot, reply) for shot, reply in zip(shots, replies, strict=True)]
        keys = [GenerationRequest(whole, 0, 0.0, 0, "verdict").key(self._identity) for whole in wholes]
        known = self._cache.get(keys)
        missing = {key: whole for key, whole in zip(keys, wholes, strict=True) if key not in known}
        made = dict(zip(missing, self._judge(list(missing.values())), strict=True))
        self._cache.put(made)
        known |= made
        return [
            reply if reply.halted or reply.failed else self._after(shot, reply, known[key])
            for shot, reply, key in zip(shots, replies, keys, strict=True)
        ]

    def _after(self, shot: Shot, reply: Reply, verdict: Completion) -> Reply:
        text = verdict.text[len(_prefill(shot)) :]
        tokens = verdict.prompt_tokens + verdict.completion_tokens
        return Reply(text, verdict.finish_reason == "content_filter", tokens, billed=reply.billed)

    def _judge(self, wholes: Sequence[tuple[Message, ...]]) -> list[Completion]:
        if self._view == "exchange":
            return [self._verdict(score) for score in self._guard.score_many(map(Exchange, wholes))]
        prompts = list(self._guard.score_many(Exchange(whole[:-1]) for whole in wholes))
        answers = self._guard.score_many(Exchange((_NO_PROMPT, whole[-1])) for whole in wholes)
        verdicts = [self._verdict(score) for score in answers]
        return [
            replace(verdict, text="", finish_reason="content_filter") if self._loud(prompt) else verdict
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]

    def _loud(self, prompt: "ExchangeScore") -> bool:
        """Tell whether a prompt alone is over the threshold of whole exchanges."""
        return not math.isnan(prompt.ranked) and prompt.ranked >= self._guard.record.decides.flag

    def _verdict(self, score: "ExchangeScore") -> Completion:
        answer = score.exchange.messages[-1].content
        if score.flagged:
            answer = self._released(score)
        finish = "content_filter" if score.flagged else "stop"
        return Completion(answer, finish, score.tokens, score.tokens_stage2)

    def _released(self, score: "ExchangeScore") -> str:
        backbone = self._guard.backbone
        chat = backbone.render(score.exchange.messages)
        return backbone.decode(chat.token_ids[chat.answer_start : chat.answer_start + score.released])


def _prefill(shot: Shot) -> str:
    last = shot.attempt.messages[-1]
    return last.content if last.role == "assistant" else ""


def _whole(shot: Shot, reply: Reply) -> tuple[Message, ...]:
    """Return the exchange that a guard sees. A prefill and what follows it are one answer."""
    before = shot.attempt.messages
    begun = _prefill(shot)
    return (*(before[:-1] if begun else before), Message("assistant", begun + reply.text))


def _reply(outcome: Outcome) -> Reply:
    if isinstance(outcome, Completion):
        tokens = outcome.prompt_tokens + outcome.completion_tokens
        billed = (outcome.prompt_tokens, outcome.completion_tokens)
        return Reply(outcome.text, outcome.finish_reason == "content_filter", tokens, billed=billed)
    if outcome.reason == "filtered":
        return Reply("", halted=True)
    return Reply("", halted=False, failed=outcome.reason)
