"""The tokens that a classifier reads: a conversation, and the suffix after which it gives its verdict.

The conversation is rendered as the served model sees it, without a preamble, so that other readers can share
its tokens. At a cut, the assistant's turn is closed as the template closes it, and a short question in plain
text follows. The verdict compares two words as the next token: it is the difference of their logits.
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
    """The tokens for a verdict.

    Attributes:
        suffix: tokens that are read after a cut.
        yes, no: tokens of the words for harmful and harmless. The verdict is the difference of their logits.
    """

    suffix: tuple[int, ...]
    yes: int
    no: int


def make_wrapper(backbone: Backbone, question: str = QUESTION, words: tuple[str, str] = WORDS) -> Wrapper:
    """Make the wrapper for a backbone's template and tokenizer.

    Args:
        question: plain text after the closed turn.
        words: the words for harmful and for harmless, each with its leading blank if it has one.

    Raises:
        ConfigError: a word is not a single token of the tokenizer, or both words are the same token.
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
    """Render the part of a conversation that a classifier reads.

    A classifier of prompts gets the conversation without its answer. A classifier of answers gets an empty
    user turn in place of all other turns.

    Raises:
        BackboneError: the template refuses the conversation.
    """
    answered = bool(messages) and messages[-1].role == "assistant"
    if reads == "answer":
        turns = [Message("user", ""), *messages[-1:]] if answered else [Message("user", "")]
        return backbone.render(turns, add_generation_prompt=not answered)
    if reads == "prompt" and answered:
        turns = list(messages[:-1]) or [Message("user", "")]
        return backbone.render(turns, add_generation_prompt=True)
    return backbone.render(messages, add_generation_prompt=not answered)
