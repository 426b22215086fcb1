"""The self-test of a tokenizer and its chat template. It checks what a guard relies on.

A tokenizer that cuts text off, or a template that writes today's date, would make every score wrong without
an error. The test renders a few conversations. It takes some milliseconds and needs no model.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockgate.backbones._chat import ChatRenderer, RenderedChat
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORDS = "The keeper opens the upper gate, and the water falls by two metres. "
# Longer than any length limit that a tokenizer's file is likely to hold.
_LONG = "".join(f"{number}. {_WORDS}" for number in range(60))
_LETTERS = (
    "naïve café, Ελλάδα, Привет, مرحبا, 水門, 🚤; if x <= 3:\n    y = {'a': [1, 2]}\n\treturn y\n\n* end"
)
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "ring", "arguments": {"bell": "two"}},
}


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The result of one check.

    Attributes:
        name: the property that was checked.
        ok: whether it holds.
        found: what was tried, or what is wrong.
    """

    name: str
    ok: bool
    found: str


def self_test(
    chat: ChatRenderer, tokenizer: "PreTrainedTokenizerFast", embeddings: int | None = None
) -> list[SelfCheck]:
    """Check everything that a guard relies on. The names of the checks say what that is.

    Args:
        embeddings: rows of the model's embedding; None if unknown.
    """
    conversations: list[tuple[Message, ...]] = []
    rendered: list[RenderedChat] = []
    refused: list[str] = []
    for name, messages in _probes():
        try:
            rendered.append(chat.render(messages))
            conversations.append(messages)
        except BackboneError as error:
            if name in ("one turn", "letters", "long"):
                return [SelfCheck("conversations are rendered", False, f"{name}: {error}")]
            refused.append(name)
    left = f", refused by the template: {', '.join(refused)}" if refused else ""
    checks = [SelfCheck("conversations are rendered", True, f"{len(rendered)} kinds{left}")]
    parts: list[tuple[str, Callable[[], str]]] = [
        ("texts are read whole", lambda: _texts(chat, tokenizer, conversations, rendered)),
        ("two renderings are equal", lambda: _repeats(chat, conversations, rendered)),
        ("served and scored tokens agree", lambda: _served(chat, conversations, rendered)),
        ("every token has an embedding", lambda: _embedded(tokenizer, rendered, embeddings)),
    ]
    for name, check in parts:
        try:
            checks.append(SelfCheck(name, True, check()))
        except BackboneError as error:
            checks.append(SelfCheck(name, False, str(error)))
    return checks


def require_self_test(
    chat: ChatRenderer, tokenizer: "PreTrainedTokenizerFast", where: str, embeddings: int | None
) -> None:
    """Run the self-test. Raises BackboneError, which names the first check that fails."""
    for check in self_test(chat, tokenizer, embeddings):
        if not check.ok:
            raise BackboneError(f"{where}: the self-test failed, {check.name}: {check.found}")


def _probes() -> list[tuple[str, tuple[Message, ...]]]:
    user, answer = Message("user", "What is a lock?"), Message("assistant", "A gate between two waters.")
    system = Message("system", "Be brief.")
    again = Message("user", "And then?")
    called = Message("assistant", "I ring it.", tool_calls=(_CALL,))
    return [
        ("one turn", (user, answer)),
        ("letters", (Message("user", _LETTERS), Message("assistant", _LETTERS))),
        ("long", (Message("user", _LONG), Message("assistant", _WORDS))),
        ("several turns", (user, answer, again, answer)),
        ("a system text", (system, user, answer)),
        ("a system text and several turns", (system, user, answer, again, answer)),
        ("tools", (user, called, Message("tool", "It rang."), answer)),
    ]


def _texts(
    chat: ChatRenderer,
    tokenizer: "PreTrainedTokenizerFast",
    conversations: Sequence[Sequence[Message]],
    rendered: Sequence[RenderedChat],
) -> str:
    for messages, found in zip(conversations, rendered, strict=True):
        for span in found.spans:
            read = tokenizer.decode(
                found.token_ids[span.start : span.end],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
            wanted = _plain(messages[span.turn].content)
            # Tool calls that the template leaves out are rendered after the content.
            if _plain(read) != wanted and not (
                messages[span.turn].tool_calls and _plain(read).startswith(wanted)
            ):
                raise BackboneError(
                    f"a text of {len(wanted)} characters comes back different, with {len(_plain(read))}: "
                    "the tokenizer loses or changes text"
                )
    return f"{sum(len(found.token_ids) for found in rendered)} tokens say what was written"


def _repeats(
    chat: ChatRenderer, conversations: Sequence[Sequence[Message]], rendered: Sequence[RenderedChat]
) -> str:
    for messages, found in zip(conversations, rendered, strict=True):
        if chat.render(messages) != found:
            raise BackboneError("the same conversation has different tokens the second time")
    dated = ", the date is fixed" if chat.template.asks_for_the_date else ""
    return f"{len(rendered)} conversations, twice{dated}"


def _served(
    chat: ChatRenderer, conversations: Sequence[Sequence[Message]], rendered: Sequence[RenderedChat]
) -> str:
    for messages, found in zip(conversations, rendered, strict=True):
        request = chat.render(messages[:-1], add_generation_prompt=True)
        if request.token_ids != found.token_ids[: found.answer_start]:
            raise BackboneError(
                "a finished conversation and its request have different tokens before the answer"
            )
        if (request.prefix_length, request.prompt_start) != (found.prefix_length, found.prompt_start):
            raise BackboneError("a finished conversation and its request differ in their regions")
    return f"{len(rendered)} requests and finished conversations"


def _embedded(
    tokenizer: "PreTrainedTokenizerFast", rendered: Sequence[RenderedChat], embeddings: int | None
) -> str:
    highest = max(max(found.token_ids) for found in rendered)
    if embeddings is None:
        return f"not known, the highest token is {highest}"
    if highest >= embeddings:
        beyond = sorted({token for found in rendered for token in found.token_ids if token >= embeddings})
        raise BackboneError(
            f"the template writes {', '.join(map(str, tokenizer.convert_ids_to_tokens(beyond)))}, and the "
            f"model's embedding has only {embeddings} rows: tokens were added to the tokenizer and not to "
            "the weights; take the tokenizer that belongs to them"
        )
    return f"the highest token is {highest} of {embeddings}"


def _plain(text: str) -> str:
    """Normalise letter forms and blanks. A tokenizer may change both without changing what a reader sees."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
