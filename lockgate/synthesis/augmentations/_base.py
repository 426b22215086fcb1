"""The interface of augmentations, with helpers that find texts, frame them and record each change.

An augmentation changes the last user message and, if needed, the answer and earlier turns. It never changes
label, category or source. `meta.augmentations` lists each augmentation with everything that `undo` needs.
`meta.original` is the id of the exchange before the first one, so that a split can keep an exchange and its
disguises together.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from lockgate.errors import SynthesisError
from lockgate.exchanges import Exchange, Message

Parameters = dict[str, Any]
Change = tuple[tuple[Message, ...], Parameters]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A disguise. With one seed two twins get the same disguise.

    Attributes:
        name: the augmentation's name.
        family: its attack family. A family is held out as a whole.
        change: from messages and a random source, makes new messages and parameters (JSON).
        revert: from the new messages and the parameters, makes the messages before.
        growth, overhead: an exchange of c characters has at most growth * c + overhead afterwards.
        stage: order in drawn chains: 0 rewords, 1 encodes or cuts, 2 frames.
        needs_answer: whether it needs an answer besides the prompt.
        exact: tells whether `undo` gives back a text exactly; None means every text.
    """

    name: str
    family: str
    change: Callable[[tuple[Message, ...], Random], Change]
    revert: Callable[[tuple[Message, ...], Mapping[str, Any]], tuple[Message, ...]]
    growth: float = 1.0
    overhead: int = 4000
    stage: int = 2
    needs_answer: bool = False
    exact: Callable[[str], bool] | None = None

    def fits(self, exchange: Exchange) -> bool:
        """Tell whether the exchange has text from the user, and an answer if one is needed."""
        last = last_user(exchange.messages)
        asked = last is not None and bool(exchange.messages[last].content.strip())
        answered = not exchange.is_prompt_only and bool(exchange.messages[-1].content.strip())
        return asked and (answered or not self.needs_answer)

    def apply(self, exchange: Exchange, seed: int) -> Exchange:
        """Return the exchange in this disguise.

        Raises:
            SynthesisError: The exchange does not fit.
        """
        if not self.fits(exchange):
            wanted = (
                "a user message and an answer with text" if self.needs_answer else "a user message with text"
            )
            raise SynthesisError(f"augmentation {self.name}: expected {wanted}; check with fits() first")
        messages, parameters = self.change(exchange.messages, Random(f"{seed}/{self.name}"))  # noqa: S311
        record = {"family": self.family, "name": self.name, "parameters": parameters, "seed": seed}
        meta = {
            **exchange.meta,
            "augmentations": [*exchange.meta.get("augmentations", ()), record],
            "original": exchange.meta.get("original", exchange.id),
        }
        return replace(exchange, messages=messages, meta=meta)

    def undo(self, exchange: Exchange) -> Exchange:
        """Return the exchange before this augmentation, which must be its last one.

        Raises:
            SynthesisError: The last augmentation in `meta` is another one.
        """
        *earlier, last = exchange.meta.get("augmentations") or [{}]
        if last.get("name") != self.name:
            raise SynthesisError(
                f"augmentation {self.name}: not the last one in meta.augmentations; undo those after it first"
            )
        meta = {
            key: value for key, value in exchange.meta.items() if key not in ("augmentations", "original")
        }
        if earlier:
            meta |= {"augmentations": earlier, "original": exchange.meta["original"]}
        return replace(exchange, messages=self.revert(exchange.messages, last["parameters"]), meta=meta)


def last_user(messages: tuple[Message, ...]) -> int | None:
    """Return the position of the last user message, or None."""
    return next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "user"), None)


def request_of(messages: tuple[Message, ...]) -> str:
    """Return the text of the last user message, which must exist."""
    position = last_user(messages)
    return "" if position is None else messages[position].content


def answer_of(messages: tuple[Message, ...]) -> str | None:
    """Return the text of the answer, or None without an answer."""
    return messages[-1].content if messages and messages[-1].role == "assistant" else None


def with_request(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Return the messages with another text in the last user message."""
    position = last_user(messages)
    return tuple(replace(m, content=text) if i == position else m for i, m in enumerate(messages))


def with_answer(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Return the messages with another answer."""
    return (*messages[:-1], replace(messages[-1], content=text))


def frame(before: str, text: str, after: str) -> tuple[str, list[int]]:
    """Put a text between two others. Return the whole and the span of the text."""
    return before + text + after, [len(before), len(before) + len(text)]


def unframe(text: str, span: Iterable[int]) -> str:
    """Return the text at the span."""
    start, end = span
    return text[start:end]
