"""How an exchange is put to a classifier: what it reads, and the suffix behind which it gives its verdict.

The conversation is rendered as the served model sees it, without a preamble, so that its tokens can be shared
with other readers. At a cut the assistant's turn is closed as the template closes it, a short question in
plain text follows, and the verdict is how much more likely one word is than the other as the next token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lockgate.backbones import Backbone, RenderedChat
from lockgate.errors import ConfigError
from lockgate.exchanges import Message

Reads = Literal["exchange", "prompt", "answer"]
HeadName = Literal["verdict", "value"]

READS: tuple[Reads, ...] = ("exchange", "prompt", "answer")
HEADS: tuple[HeadName, ...] = ("verdict", "value")
QUESTION = "Harm:"
WORDS = (" yes", " no")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What is fed behind a cut, and the two tokens whose logits make the verdict."""

    suffix: tuple[int, ...]
    yes: int
    no: int


def make_wrapper(backbone: Backbone, question: str = QUESTION, words: tuple[str, str] = WORDS) -> Wrapper:
    """The wrapper of a backbone's template and tokenizer.

    Args:
        words: what stands for harmful and for harmless, each with its leading blank if it has one.

    Raises:
        ConfigError: a word that the tokenizer does not hold as one token, or two words of the same token.
    """
    tokens = [backbone.chat.encode_text(word) for word in words]
    for word, found in zip(words, tokens, strict=True):
        if len(found) != 1:
            raise ConfigError(
                f"verdict word {word!r} is {len(found)} tokens for {backbone.name}, expected one; "
                "choose a word that its tokenizer holds whole"
            )
    if tokens[0] == tokens[1]:
        raise ConfigError(f"verdict words {words[0]!r} and {words[1]!r} are the same token; choose two")
    chat = backbone.render([Message("user", "a"), Message("assistant", "b")])
    closing = chat.token_ids[chat.answer_end :]
    return Wrapper((*closing, *backbone.chat.encode_text(question)), tokens[0][0], tokens[1][0])


def render_for(backbone: Backbone, reads: Reads, messages: Sequence[Message]) -> RenderedChat:
    """The part of a conversation that a classifier reads; an answer that it does not read is left out.

    A classifier of answers gets an empty user turn in the place of all it does not see.

    Raises:
        BackboneError: a conversation that the template refuses.
    """
    answered = bool(messages) and messages[-1].role == "assistant"
    if reads == "answer":
        turns = [Message("user", ""), *messages[-1:]] if answered else [Message("user", "")]
        return backbone.render(turns, add_generation_prompt=not answered)
    if reads == "prompt" and answered:
        turns = list(messages[:-1]) or [Message("user", "")]
        return backbone.render(turns, add_generation_prompt=True)
    return backbone.render(messages, add_generation_prompt=not answered)
