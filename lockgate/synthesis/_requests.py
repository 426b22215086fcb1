"""Requests to generators, their outcomes, and the interface of all generators."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lockgate.exchanges import Message

# Tokenizers differ. Three bytes a token overestimates most texts, which keeps a budget safe.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one completion.

    Attributes:
        messages: the conversation to continue.
        max_tokens: most tokens of the completion.
        temperature: 0 is greedy.
        seed: comes from the row and the step, so a repeated row sends the same request.
        purpose: use of the completion, such as `query` or `refusal`. Tokens are counted by purpose.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.7
    seed: int = 0
    purpose: str = ""

    def key(self, model: str) -> str:
        """Return the SHA-256 (64 hex digits) of the request and a generator's `identity`."""
        record = {
            "model": model,
            "messages": [message.to_dict() for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "seed": self.seed,
            "purpose": self.purpose,
        }
        text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def estimated_prompt_tokens(self) -> int:
        """A rough upper estimate from the number of bytes. The true number depends on the tokenizer."""
        return sum(_TOKENS_PER_MESSAGE + estimate_tokens(message.content) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Completion:
    """A text from a generator.

    `finish_reason` is `stop`, `length` if it was cut at `max_tokens`, or `content_filter` if the endpoint's
    filter stopped it and `EndpointConfig.filtered` is `keep`.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationFailure:
    """A request without a usable completion. `reason` is one of a few words; `detail` has no user text."""

    reason: str
    detail: str = ""


Outcome = Completion | GenerationFailure


class Generator(Protocol):
    """A writer of completions. An error of one request is its outcome. An error of all requests is raised.

    Attributes:
        name: name of the model in data and cards.
        by_batch: whether an answer may depend on the other requests of its call, because batched decoding
            moves floats. Then only a whole call can be repeated.
    """

    name: str
    by_batch: bool = False

    @property
    def identity(self) -> str:
        """The generator's part of request keys. It differs between generators that may answer differently."""
        return self.name

    @abstractmethod
    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """Yield the position and outcome of each request, in the order in which they finish.

        Raises:
            GeneratorError: Nothing can be answered now. Outcomes yielded before stay valid.
            BudgetExhausted: The next request would exceed the budget.
        """

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Outcome]:
        """Return all outcomes in the order of the requests. Raises what `stream` raises."""
        outcomes = dict(self.stream(requests))
        return [outcomes[index] for index in range(len(requests))]


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text from its bytes."""
    return -(-len(text.encode("utf-8")) // _BYTES_PER_TOKEN)
