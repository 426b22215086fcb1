"""Tokens used, their cost, and a budget that stops before it is exceeded."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lockgate.errors import BudgetExhausted
from lockgate.synthesis._requests import Completion, GenerationRequest

_MILLION = 1_000_000


class Prices(BaseModel):
    """Prices of a million tokens, in a currency of the user's choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost of these tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / _MILLION


@dataclass(slots=True)
class Usage:
    """Requests and tokens that a generator has used so far. `retries` counts repeated attempts."""

    requests: int = 0
    failures: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_by_purpose: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, request: GenerationRequest, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answered request."""
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.tokens_by_purpose[request.purpose] += prompt_tokens + completion_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with purposes sorted."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "tokens_by_purpose": dict(sorted(self.tokens_by_purpose.items())),
        }


class Budget:
    """A cap on tokens, on cost, or on both. Generators may share it. Cached answers cost nothing.

    A request reserves its `max_tokens` and its estimated prompt before it is sent. So all requests in flight
    together stay within the cap.

    A lost reply costs its full reservation, because it may have been written and billed. Replies are lost by
    a time-out, a connection that breaks after the request was sent, 504, 524, or a reply that can't be read.
    These attempts cost nothing: those that reach no server or break while they are sent, 408, 409, 425, 429
    and the other 5xx.

    An endpoint can exceed the cap only if it bills more than was reserved: for prompts longer than estimated,
    for completions longer than `max_tokens`, and for errors. Generators that share a budget have one
    price and must run one after another, as the steps of a pipeline do.

    Attributes:
        prompt_tokens, completion_tokens: tokens spent so far, lost replies at their full reservation.
    """

    def __init__(
        self, *, max_tokens: int | None = None, max_cost: float | None = None, prices: Prices | None = None
    ) -> None:
        if max_cost is not None and prices is None:
            raise ValueError("max_cost needs prices")
        self.max_tokens = max_tokens
        self.max_cost = max_cost
        self.prices = prices or Prices(prompt=0, completion=0)
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens that a request has used."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def has_room(self, in_flight: Iterable[GenerationRequest]) -> bool:
        """Tell whether the spent tokens and the reservations of these requests stay within the cap."""
        if self.max_tokens is None and self.max_cost is None:
            return True
        prompt, completion = self.prompt_tokens, self.completion_tokens
        for request in in_flight:
            prompt += request.estimated_prompt_tokens
            completion += request.max_tokens
        if self.max_tokens is not None and prompt + completion > self.max_tokens:
            return False
        return self.max_cost is None or self.prices.cost(prompt, completion) <= self.max_cost

    def exhausted(self) -> BudgetExhausted:
        """Return the error of a used-up budget, with tokens and cost."""
        cost = self.prices.cost(self.prompt_tokens, self.completion_tokens)
        tokens = self.prompt_tokens + self.completion_tokens
        return BudgetExhausted(
            f"the budget is used up: {tokens} tokens (cap {self.max_tokens}), cost {cost:.4f} "
            f"(cap {self.max_cost}). Finished work is kept; raise max_tokens or max_cost and run again"
        )


@dataclass(slots=True)
class Estimate:
    """Requests and tokens of a run in which every answer has full length."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests_by_purpose: Counter[str] = field(default_factory=Counter)

    def add(self, request: GenerationRequest) -> None:
        """Count a request that would be sent."""
        self.requests += 1
        self.prompt_tokens += request.estimated_prompt_tokens
        self.completion_tokens += request.max_tokens
        self.requests_by_purpose[request.purpose] += 1

    def add_alike(self, purpose: str, count: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Count requests of one purpose that all have the same number of tokens."""
        if count:
            self.requests += count
            self.prompt_tokens += count * prompt_tokens
            self.completion_tokens += count * completion_tokens
            self.requests_by_purpose[purpose] += count

    def to_dict(self, prices: Prices | None = None) -> dict[str, Any]:
        """Return the JSON form. `cost` is null without prices."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "requests_by_purpose": dict(sorted(self.requests_by_purpose.items())),
            "cost": prices.cost(self.prompt_tokens, self.completion_tokens) if prices else None,
        }


def estimate_requests(requests: Iterable[GenerationRequest]) -> Estimate:
    """Estimate requests that are known beforehand. For others see `DryRunGenerator`."""
    estimate = Estimate()
    for request in requests:
        estimate.add(request)
    return estimate


def count_completion(usage: Usage, request: GenerationRequest, completion: Completion) -> None:
    """Count a request with the tokens of its completion."""
    usage.add(request, completion.prompt_tokens, completion.completion_tokens)
