"""Chat rendering in which no text of a user can become a control token.

The model's own template is rendered with random placeholders in the place of every text. The result is cut at
the placeholders: what the template wrote is tokenised with its control tokens, what people wrote is tokenised
by a copy of the tokenizer that has no added tokens at all.
"""

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from lockgate.errors import BackboneError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant", "tool")
# Text of the operator, not of the user: it is read, and never flags.
_INSTRUCTING = ("system", "developer")
# OpenAI's name for the system role of newer models; chat templates know the old one.
_ALIASES = {"developer": "system"}
_TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start:end` that hold the content of message number `turn`."""

    turn: int
    role: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """Tokens of a conversation.

    Attributes:
        token_ids: all tokens.
        prefix_length: leading tokens that the template writes whatever the text (attention sink: not scored).
        spans: content tokens of each message.
        prompt_start: first content token of the newest prompt: all that was said, the system's text apart,
            since the assistant turn before the last turn of a user or a tool.
        answer_start: first content token of the answer. A finished conversation has its last message as the
            answer, if an assistant wrote it. In front of a generation prompt nothing is answer, whoever
            spoke last: it is `len(token_ids)`.
        answer_end: one behind the last content token of the answer: scoring stops there.
    """

    token_ids: list[int]
    prefix_length: int
    spans: list[Span]
    prompt_start: int
    answer_start: int
    answer_end: int


class ChatRenderer:
    """Renders conversations with a tokenizer's chat template; a plain one stands in where there is none."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise BackboneError("the tokenizer has no tokenizer.json; convert it to a fast tokenizer first")
        state = json.loads(backend.to_str())
        self.control_ids = frozenset(token["id"] for token in state["added_tokens"])
        state["added_tokens"], state["post_processor"] = [], None
        self._plain = Tokenizer.from_str(json.dumps(state))
        self._backend = backend
        self._tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise BackboneError(
                "the tokenizer has no chat template; add chat_template.jinja to the model's directory"
            )
        self.end_of_turn_ids = self._find_end_of_turn()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> RenderedChat:
        """Tokenise a conversation.

        Raises:
            BackboneError: no messages, a role outside system, user, assistant, tool, or an order of roles
                that the model's template refuses.
        """
        if not messages:
            raise BackboneError("messages: expected at least one message, found none")
        texts: list[str] = []
        marker = secrets.token_hex(8)
        marked = [self._mark(message, texts, marker) for message in messages]
        pieces = self._template(marked, add_generation_prompt).split(marker)
        if unread := _unread_calls(messages, {int(number) for number in pieces[1::2]}):
            # What an assistant calls is part of its answer: where a template drops calls, they are text.
            told = [_calls_as_text(m) if turn in unread else m for turn, m in enumerate(messages)]
            return self.render(told, add_generation_prompt=add_generation_prompt)
        return self._assemble(pieces, texts, messages, answered=not add_generation_prompt)

    def encode_text(self, text: str) -> list[int]:
        """Tokens of text alone: every spelling of a control token comes out as ordinary tokens."""
        try:
            found = self._plain.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise BackboneError("messages: text that is not valid Unicode (a lone surrogate)") from None
        ids: list[int] = []
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            if token in self.control_ids:
                # A vocabulary that also holds the control token as an ordinary piece.
                ids.extend(self._spell(text[start:end]))
            else:
                ids.append(token)
        return ids

    def _spell(self, text: str) -> list[int]:
        """Letter by letter, or byte by byte, no control token can form; what has neither form is left out."""
        ids: list[int] = []
        for letter in text:
            found = self._plain.encode(letter, add_special_tokens=False).ids
            if not self.control_ids.isdisjoint(found):
                spelt = [self._plain.token_to_id(f"<0x{byte:02X}>") for byte in letter.encode()]
                found = [token for token in spelt if token is not None]
            ids.extend(token for token in found if token not in self.control_ids)
        return ids

    def _mark(self, message: Message, texts: list[str], marker: str) -> dict[str, Any]:
        role = _ALIASES.get(message.role, message.role)
        if role not in ROLES:
            raise BackboneError(f"messages: role must be one of {', '.join(ROLES)}")

        def hide(value: object) -> object:
            if isinstance(value, str):
                texts.append(value)
                return f"{marker}{len(texts) - 1:06d}{marker}"
            if isinstance(value, dict):
                return {(key if key in _TOOL_KEYS else hide(key)): hide(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [hide(item) for item in value]
            return value

        marked = {"role": role, "content": hide(message.content)}
        if message.name is not None:
            marked["name"] = hide(message.name)
        if message.tool_calls:
            marked["tool_calls"] = hide(list(message.tool_calls))
        return marked

    def _template(self, marked: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        def apply(turns: list[dict[str, Any]]) -> str:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            return text

        try:
            return apply(marked)
        except _TEMPLATE_FAULTS as error:
            fault = error
        if marked[0]["role"] == "system" and len(marked) > 1 and marked[1]["role"] == "user":
            # Templates without a system role get its text at the head of the first user turn.
            merged = {**marked[1], "content": f"{marked[0]['content']}\n\n{marked[1]['content']}"}
            try:
                return apply([merged, *marked[2:]])
            except _TEMPLATE_FAULTS as error:
                fault = error
        raise BackboneError(
            f"messages: the model's chat template refuses this order of roles ({fault})"
        ) from fault

    def _assemble(
        self, pieces: list[str], texts: list[str], messages: Sequence[Message], *, answered: bool
    ) -> RenderedChat:
        """Pieces alternate between template text (even) and the number of a hidden text (odd)."""
        starts = _first_texts(messages)
        ids: list[int] = []
        spans: list[Span] = []
        prefix_length: int | None = None
        for position, piece in enumerate(pieces):
            if position % 2 == 0:
                ids.extend(self._backend.encode(piece, add_special_tokens=False).ids if piece else ())
                prefix_length = len(ids) if prefix_length is None else prefix_length
                continue
            number = int(piece)
            start = len(ids)
            ids.extend(self.encode_text(texts[number]))
            if number in starts:
                turn = starts[number]
                spans.append(Span(turn, messages[turn].role, start, len(ids)))
        if [span.turn for span in spans] != list(range(len(messages))):
            raise BackboneError(
                "messages: the model's chat template leaves out or repeats part of the conversation"
            )
        return _with_regions(ids, prefix_length or 0, spans, answered=answered)

    def _find_end_of_turn(self) -> frozenset[int]:
        """Control tokens that the template puts right behind an assistant's text."""
        turns = [Message("user", "a"), Message("assistant", "b")]
        rendered = self.render(turns)
        following = rendered.token_ids[rendered.spans[-1].end : rendered.spans[-1].end + 1]
        return frozenset(following) & self.control_ids


_TOOL_KEYS = frozenset({"id", "type", "function", "name", "arguments"})


def _first_texts(messages: Sequence[Message]) -> dict[int, int]:
    """Number of each message's content among the hidden texts, in the order in which `_mark` hides them."""
    starts, number = {}, 0
    for turn, message in enumerate(messages):
        starts[number] = turn
        number += 1 + (message.name is not None)
        number += sum(_count_texts(call) for call in message.tool_calls or ())
    return starts


def _unread_calls(messages: Sequence[Message], shown: set[int]) -> set[int]:
    """Turns whose tool calls the template has left out altogether."""
    unread = set()
    for number, turn in _first_texts(messages).items():
        message = messages[turn]
        first = number + 1 + (message.name is not None)
        count = sum(_count_texts(call) for call in message.tool_calls or ())
        if count and shown.isdisjoint(range(first, first + count)):
            unread.add(turn)
    return unread


def _calls_as_text(message: Message) -> Message:
    calls = json.dumps(list(message.tool_calls or ()), ensure_ascii=False)
    return Message(message.role, f"{message.content}\n{calls}" if message.content else calls, message.name)


def _count_texts(value: object) -> int:
    if isinstance(value, str):
        return 1
    if isinstance(value, dict):
        return sum(_count_texts(item) + (key not in _TOOL_KEYS) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(_count_texts(item) for item in value)
    return 0


def _with_regions(ids: list[int], prefix_length: int, spans: list[Span], *, answered: bool) -> RenderedChat:
    last = spans[-1]
    # What a client sends as the beginning of an answer is prompt like all that it sends.
    ends_with_answer = answered and last.role == "assistant"
    before = [span for span in (spans[:-1] if ends_with_answer else spans) if span.role not in _INSTRUCTING]
    asked = max((span.turn for span in before if span.role != "assistant"), default=-1)
    earlier = max(
        (span.turn for span in before if span.role == "assistant" and span.turn < asked), default=-1
    )
    # All that came since the model last spoke is judged as one turn, tool results too.
    new = [span for span in before if span.turn > earlier]
    answer_start = last.start if ends_with_answer else len(ids)
    prompt_start = new[0].start if new else answer_start
    return RenderedChat(
        token_ids=ids,
        prefix_length=min(prefix_length, prompt_start),
        spans=spans,
        prompt_start=prompt_start,
        answer_start=answer_start,
        answer_end=last.end if ends_with_answer else len(ids),
    )


def banned_ids(control_ids: Iterable[int], eos_ids: Iterable[int]) -> frozenset[int]:
    """Control tokens that sampling must never emit: all but the end of turn."""
    return frozenset(control_ids) - frozenset(eos_ids)
