"""What a classifier reads, and the schema of `classifier.yaml`, its record. Unknown keys are errors.

A classifier reads a conversation, and a suffix after which it gives its verdict. The conversation is rendered
as the served model sees it, without a preamble, so that other readers can share its tokens. At a cut, the
assistant's turn is closed as the template closes it, and a short question in plain text follows. The verdict
compares two words as the next token: it is the difference of their logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lockgate.backbones import Backbone, RenderedChat
from lockgate.errors import BackboneMismatch, ConfigError
from lockgate.exchanges import Message

Reads = Literal["exchange", "prompt", "answer"]
HeadName = Literal["verdict", "value"]

READS: tuple[Reads, ...] = ("exchange", "prompt", "answer")
HEADS: tuple[HeadName, ...] = ("verdict", "value")
QUESTION = "Harm:"
WORDS = (" yes", " no")
_TARGET_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterShape(_Strict):
    """The shape of a low-rank adapter.

    Attributes:
        depth: layers of the backbone that the classifier uses, from the bottom.
        layers: how many of these layers, from the top, are adapted.
        rank: rank of the low-rank maps.
        alpha: scale: a map's product is multiplied by `alpha / rank`.
        targets: names of the adapted linear maps.
    """

    depth: int = Field(ge=1)
    layers: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = _TARGET_NAMES

    @property
    def first(self) -> int:
        """Number of the lowest adapted layer."""
        return self.depth - self.layers

    @property
    def blocks(self) -> range:
        """Numbers of the adapted layers."""
        return range(self.first, self.depth)


class ClassifierRecord(_Strict):
    """The content of `classifier.yaml`, except the hash of the folder's content.

    Attributes:
        reads: the part of an exchange that the classifier reads.
        head: `verdict` compares two words after a question; `value` is a linear map on each token.
        question, words: the question and the two verdict words, harmful first.
        adapter: shape of the adapter.
        backbone: name and hashes of the backbone it was made for.
        training: data and settings of the training, if recorded.
    """

    format: Literal[1] = 1
    name: str
    reads: Reads
    head: HeadName
    question: str = QUESTION
    words: tuple[str, str] = WORDS
    adapter: AdapterShape
    backbone: dict[str, Any]
    training: dict[str, Any] | None = None


def backbone_record(backbone: Backbone) -> dict[str, Any]:
    """Return the name and hashes of a backbone, as a classifier records them."""
    identity = backbone.identity
    return {"name": identity.name, "hashes": identity.hashes}


def check_backbone(record: ClassifierRecord, backbone: Backbone) -> None:
    """Check a classifier's backbone. Raises BackboneMismatch if the classifier was made for another one."""
    if "hashes" not in record.backbone:
        raise BackboneMismatch(f"classifier {record.name}: its record does not name its backbone")
    made, found = record.backbone["hashes"], backbone.identity.hashes
    if differing := sorted(key for key in {*made, *found} if made.get(key) != found.get(key)):
        raise BackboneMismatch(
            f"classifier {record.name} was made for backbone {record.backbone.get('name')}; {backbone.name} "
            f"differs in {', '.join(differing)}. Give the right one, or train on this one"
        )
    if record.adapter.depth > backbone.n_layers or record.adapter.layers > record.adapter.depth:
        raise BackboneMismatch(
            f"classifier {record.name} adapts {record.adapter.layers} of {record.adapter.depth} blocks; "
            f"{backbone.name} has {backbone.n_layers}"
        )


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
