"""Chat rendering in which no text of a user can become a control token.

The model's own template is rendered with random placeholders in the place of every text. The result is cut at
the placeholders: what the template wrote is tokenised with its control tokens, what people wrote is tokenised
by a copy of the tokenizer that has none.

A finished answer is read behind the tokens behind which it would have been served, whatever the template
writes into a conversation that is over.
"""

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockgate.backbones._templates import ChatTemplate, TemplateRefusal
from lockgate.backbones._vocabulary import Vocabulary
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant", "tool")
# Text of the operator, not of the user: it is read, and never flags.
_INSTRUCTING = ("system", "developer")
# OpenAI's name for the system role of newer models; chat templates know the old one.
_ALIASES = {"developer": "system"}


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
    """Renders conversations with a tokenizer's chat template.

    Args:
        embeddings: rows of the model's embedding, see `Vocabulary`.

    Attributes:
        template: the template.
        control_ids: tokens that no text becomes and that sampling must not emit; see `Vocabulary`.
        added_ids: every added token.
        end_of_turn_ids: control tokens that the template puts right behind an assistant's text.

    Raises:
        BackboneError: no usable tokenizer or template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", embeddings: int | None = None) -> None:
        self.vocabulary = Vocabulary(tokenizer, embeddings)
        self.template = ChatTemplate(tokenizer)
        self._closing = ""
        self.vocabulary.note_turns(self._probe_turns())
        self.end_of_turn_ids = self._find_end_of_turn()

    @property
    def control_ids(self) -> frozenset[int]:
        return self.vocabulary.control_ids

    @property
    def added_ids(self) -> frozenset[int]:
        return self.vocabulary.added_ids

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> RenderedChat:
        """Tokenise a conversation.

        One that is finished, with an answer of the assistant at its end, has the tokens of its request and
        then those of the answer.

        Raises:
            BackboneError: no messages, a role outside system, user, assistant, tool, or an order of roles
                that the model's template refuses.
        """
        if not messages:
            raise BackboneError("messages: expected at least one message, found none")
        texts: list[str] = []
        marker = secrets.token_hex(8)
        marked = [self._mark(message, texts, marker) for message in messages]
        answered = not add_generation_prompt and messages[-1].role == "assistant"
        if answered:
            pieces = self._finished(marked, marker, _answer_number(messages))
        else:
            pieces = self._pieces(marked, marker, add_generation_prompt=add_generation_prompt)
        if unread := _unread_calls(messages, {int(number) for number in pieces[1::2]}):
            # What an assistant calls is part of its answer: where a template drops calls, they are text.
            told = [_calls_as_text(m) if turn in unread else m for turn, m in enumerate(messages)]
            return self.render(told, add_generation_prompt=add_generation_prompt)
        return self._assemble(pieces, texts, messages, answered=answered)

    def encode_text(self, text: str) -> list[int]:
        """Tokens of text alone: every spelling of a control token comes out as ordinary tokens."""
        return self.vocabulary.encode_text(text)

    def _pieces(self, marked: list[dict[str, Any]], marker: str, *, add_generation_prompt: bool) -> list[str]:
        return self._template(marked, add_generation_prompt).split(marker)

    def _finished(self, marked: list[dict[str, Any]], marker: str, answer: str) -> list[str]:
        """Pieces of a conversation that is over: those of its request, the answer, and what ends the turn."""
        whole: list[str] | None = None
        refusal: BackboneError | None = None
        try:
            whole = self._pieces(marked, marker, add_generation_prompt=False)
        except BackboneError as error:
            refusal = error
        try:
            if len(marked) == 1:
                raise BackboneError("messages: there is no request before the answer")
            request = self._pieces(marked[:-1], marker, add_generation_prompt=True)
        except BackboneError:
            # An answer to nothing, or to what can't be asked, can't be served: it is read as it stands.
            if whole is None:
                raise refusal or BackboneError("messages: can't be rendered") from None
            return whole
        if whole is not None and whole[: len(request) + 1] == [*request, answer]:
            return whole
        closing = [self._closing]
        if whole is not None and whole.count(answer) == 1 and answer in whole[1::2]:
            closing = whole[whole.index(answer) + 1 :]
        return [*request, answer, *closing]

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
        try:
            return self.template.render(marked, add_generation_prompt=add_generation_prompt)
        except TemplateRefusal as refusal:
            fault = refusal
        if marked[0]["role"] == "system" and len(marked) > 1 and marked[1]["role"] == "user":
            # Templates without a system role get its text at the head of the first user turn.
            merged = {**marked[1], "content": f"{marked[0]['content']}\n\n{marked[1]['content']}"}
            try:
                return self.template.render(
                    [merged, *marked[2:]], add_generation_prompt=add_generation_prompt
                )
            except TemplateRefusal as refusal:
                fault = refusal
        raise BackboneError(
            f"messages: the model's chat template refuses this order of roles ({fault})"
        ) from fault

    def _assemble(
        self, pieces: list[str], texts: list[str], messages: Sequence[Message], *, answered: bool
    ) -> RenderedChat:
        """Pieces alternate between template text (even) and the number of a hidden text (odd)."""
        starts = _first_texts(messages)
        own = int(_answer_number(messages)) if answered else sum(map(_texts_of, messages))
        ids: list[int] = []
        spans: dict[int, Span] = {}
        read: list[int] = []
        prefix_length: int | None = None
        for position, piece in enumerate(pieces):
            if position % 2 == 0:
                ids.extend(self.vocabulary.encode_template(piece))
                prefix_length = len(ids) if prefix_length is None else prefix_length
                continue
            number = int(piece)
            start = len(ids)
            encode = self.vocabulary.encode_answer if number >= own else self.vocabulary.encode_text
            ids.extend(encode(texts[number]))
            if number in starts:
                turn = starts[number]
                read.append(turn)
                spans[turn] = Span(turn, messages[turn].role, start, len(ids))
        # Texts may stand in another order than the messages: some templates move the system's.
        if sorted(read) != list(range(len(messages))):
            raise BackboneError(
                "messages: the model's chat template leaves out or repeats part of the conversation"
            )
        return _with_regions(ids, prefix_length or 0, [spans[turn] for turn in sorted(spans)], answered)

    def _probe_turns(self) -> list[str]:
        """What the template writes around texts, from conversations of every kind that it takes."""
        user, answer = Message("user", "a"), Message("assistant", "b")
        call = {"type": "function", "function": {"name": "c", "arguments": {"d": "e"}}}
        called = Message("assistant", "", tool_calls=({"id": "call00001", **call},))
        written: list[str] = []
        for messages in (
            [user, answer],
            [user],
            [Message("system", "s"), user],
            [user, answer, user],
            [user, called, Message("tool", "t")],
        ):
            texts: list[str] = []
            marker = secrets.token_hex(8)
            marked = [self._mark(message, texts, marker) for message in messages]
            try:
                asked = messages[-1].role != "assistant"
                pieces = self._pieces(marked, marker, add_generation_prompt=asked)
            except BackboneError:
                if len(messages) <= 2 and messages[0] is user:
                    raise
                continue
            if messages[-1] is answer:
                self._closing = pieces[-1]
            if messages[1:2] != [called]:
                written += pieces[::2]
            elif len(pieces) > 2 and pieces[-2] == f"{len(texts) - 1:06d}":
                # What stands around a tool's result; calls are the model's own words.
                written.append(pieces[-1])
        return written

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
        number += _texts_of(message)
    return starts


def _texts_of(message: Message) -> int:
    """How many texts of a message are hidden."""
    calls = sum(_count_texts(call) for call in message.tool_calls or ())
    return 1 + (message.name is not None) + calls


def _answer_number(messages: Sequence[Message]) -> str:
    """The number under which the last message's content is hidden, as it stands between markers."""
    return f"{sum(map(_texts_of, messages[:-1])):06d}"


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


def _with_regions(
    ids: list[int], prefix_length: int, spans: list[Span], ends_with_answer: bool
) -> RenderedChat:
    """Regions by the turns in `spans`. What a client sends as the beginning of an answer is prompt."""
    last = spans[-1]
    before = [span for span in (spans[:-1] if ends_with_answer else spans) if span.role not in _INSTRUCTING]
    asked = max((span.turn for span in before if span.role != "assistant"), default=-1)
    earlier = max(
        (span.turn for span in before if span.role == "assistant" and span.turn < asked), default=-1
    )
    # All that came since the model last spoke is judged as one turn, tool results too.
    new = [span for span in before if span.turn > earlier]
    answer_start = last.start if ends_with_answer else len(ids)
    prompt_start = min((span.start for span in new), default=answer_start)
    return RenderedChat(
        token_ids=ids,
        prefix_length=min(prefix_length, prompt_start),
        spans=spans,
        prompt_start=prompt_start,
        answer_start=answer_start,
        answer_end=last.end if ends_with_answer else len(ids),
    )


def banned_ids(control_ids: Iterable[int], eos_ids: Iterable[int]) -> frozenset[int]:
    """Control tokens that sampling must never emit: all but the end of turn. Ordinary added tokens may be."""
    return frozenset(control_ids) - frozenset(eos_ids)
