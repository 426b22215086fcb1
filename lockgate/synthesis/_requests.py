"""What is asked of a generator and what comes back; the interface all generators share."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lockgate.exchanges import Message

# Tokenizers differ; three bytes a token overestimates for most text, which is the safe side of a budget.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion that is wanted.

    Attributes:
        messages: the conversation to be continued.
        max_tokens: tokens the completion may have.
        temperature: 0 is greedy.
        seed: from the row and the step, so that the same row asks the same thing again.
        purpose: what it is for, such as `query` or `refusal`; tokens are counted by purpose.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.7
    seed: int = 0
    purpose: str = ""

    def key(self, model: str) -> str:
        """64 hex digits of the SHA-256 of the request and the generator's `identity` in canonical JSON."""
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
        """A rough upper figure from the number of bytes; the true one depends on the model's tokenizer."""
        return sum(_TOKENS_PER_MESSAGE + estimate_tokens(message.content) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that a generator wrote. `finish_reason` is `stop`, or `length` if it was cut at `max_tokens`."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationFailure:
    """No usable completion of one request. `reason` is one of a few words, `detail` holds no user text."""

    reason: str
    detail: str = ""


Outcome = Completion | GenerationFailure


class Generator(Protocol):
    """Writes completions. What is wrong with one request is its outcome; what is wrong with all is raised.

    Attributes:
        name: the model, as data and cards show it.
        by_batch: whether an answer may depend on the requests beside it (batched decoding moves floats), so
            that only a whole call can be repeated.
    """

    name: str
    by_batch: bool = False

    @property
    def identity(self) -> str:
        """What keys of requests name it by: two that may answer differently have two."""
        return self.name

    @abstractmethod
    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """Yield position and outcome of each request, in the order in which they finish.

        Raises:
            GeneratorError: nothing can be answered now. Outcomes that were yielded stay good.
            BudgetExhausted: the next request would go over the budget.
        """

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Outcome]:
        """All outcomes in the order of the requests. Raises what `stream` raises."""
        outcomes = dict(self.stream(requests))
        return [outcomes[index] for index in range(len(requests))]


def estimate_tokens(text: str) -> int:
    """Tokens of a text, roughly, from its bytes."""
    return -(-len(text.encode("utf-8")) // _BYTES_PER_TOKEN)
