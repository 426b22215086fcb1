"""Chat rendering: a conversation becomes tokens, and no user's text can become a control token.

The model's own template is rendered with a random placeholder for every text. The result is cut at the
placeholders. The template's own text is tokenised with its control tokens. People's text is tokenised by a
copy of the tokenizer that has no control tokens.

A finished answer is read after the same tokens after which it would have been served, even if the template
writes a finished conversation in another way.
"""

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lockgate.backbones._templates import ChatTemplate, TemplateRefusal
from lockgate.backbones._vocabulary import Vocabulary
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant", "tool")
# Text of the operator, not of the user. It is read but never flags.
_INSTRUCTING = ("system", "developer")
# OpenAI's newer name for the system role. Chat templates know only the old name.
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
        prefix_length: leading tokens that the template writes before any text. They are not scored, because
            they act as attention sinks.
        spans: content tokens of each message.
        prompt_start: first content token of the newest prompt. The newest prompt is every turn, except the
            system's, after the last assistant turn that a user or a tool has replied to.
        answer_start: first content token of the answer. In a finished conversation the answer is the last
            message, if an assistant wrote it. Without an answer, and always with a generation prompt, this is
            `len(token_ids)`.
        answer_end: one past the last content token of the answer. Scoring stops there.
        request: the messages before the answer; none if the chat was not rendered from messages.
    """

    token_ids: list[int]
    prefix_length: int
    spans: list[Span]
    prompt_start: int
    answer_start: int
    answer_end: int
    request: tuple[Message, ...] = ()

    @property
    def request_length(self) -> int:
        """Number of tokens before the answer, also if `answer_start` was moved to read them in pieces.

        Without messages there is no answer among the tokens.
        """
        finished = len(self.spans) > len(self.request)
        return self.spans[-1].start if finished else len(self.token_ids)


class ChatRenderer:
    """A renderer that turns conversations into tokens with a tokenizer's chat template.

    Args:
        embeddings: rows of the model's embedding; see `Vocabulary`.

    Attributes:
        template: the template.
        control_ids: tokens that no text becomes and that sampling must not emit; see `Vocabulary`.
        added_ids: every added token.
        end_of_turn_ids: control tokens that the template puts directly after an assistant's text.

    Raises:
        BackboneError: the tokenizer or the template is not usable.
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

        A finished conversation ends with an answer of the assistant. It gets the tokens of its request,
        followed by the tokens of the answer.

        Args:
            add_generation_prompt: end with the tokens after which the model writes its answer.

        Raises:
            BackboneError: there are no messages, a role is not system, developer, user, assistant or tool, or
                the model's template refuses this order of roles.
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
            # Tool calls are part of the answer. If a template drops them, they are rendered as text.
            told = [_calls_as_text(m) if turn in unread else m for turn, m in enumerate(messages)]
            chat = self.render(told, add_generation_prompt=add_generation_prompt)
        else:
            chat = self._assemble(pieces, texts, messages, answered=answered)
        return replace(chat, request=tuple(messages[:-1] if answered else messages))

    def encode_text(self, text: str) -> list[int]:
        """Tokenise text alone. Any spelling of a control token becomes ordinary tokens."""
        return self.vocabulary.encode_text(text)

    def _pieces(self, marked: list[dict[str, Any]], marker: str, *, add_generation_prompt: bool) -> list[str]:
        return self._template(marked, add_generation_prompt).split(marker)

    def _finished(self, marked: list[dict[str, Any]], marker: str, answer: str) -> list[str]:
        """Return the pieces of a finished conversation: its request, the answer, and the end of the turn."""
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
            # There is no request that could have been served, so the conversation is read as it stands.
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
        # A template without a system or tool role, or one that wants turns to alternate, gets what it takes.
        written, fault = None, None
        for turns in (marked, _with_system_in_user(marked), _alternating(marked)):
            try:
                found = self.template.render(turns, add_generation_prompt=add_generation_prompt)
            except TemplateRefusal as refusal:
                fault = refusal
                continue
            if all(found.count(turn["content"]) == 1 for turn in marked):
                return found
            written = written or found
        if written is None:
            raise BackboneError(
                f"messages: the model's chat template refuses this order of roles ({fault})"
            ) from fault
        return written

    def _assemble(
        self, pieces: list[str], texts: list[str], messages: Sequence[Message], *, answered: bool
    ) -> RenderedChat:
        """Tokenise pieces. Even ones are template text, odd ones the number of a hidden text."""
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
        # Texts may come in another order than the messages, because some templates move the system's text.
        if sorted(read) != list(range(len(messages))):
            raise BackboneError(
                "messages: the model's chat template leaves out or repeats part of the conversation"
            )
        return _with_regions(ids, prefix_length or 0, [spans[turn] for turn in sorted(spans)], answered)

    def _probe_turns(self) -> list[str]:
        """Collect the text that the template writes around messages, from every kind of conversation."""
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
                # Only the text around a tool's result counts. The call itself is the model's own words.
                written.append(pieces[-1])
        return written

    def _find_end_of_turn(self) -> frozenset[int]:
        """Find the control tokens that the template puts directly after an assistant's text."""
        turns = [Message("user", "a"), Message("assistant", "b")]
        rendered = self.render(turns)
        following = rendered.token_ids[rendered.spans[-1].end : rendered.spans[-1].end + 1]
        return frozenset(following) & self.control_ids


def _with_system_in_user(marked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the first system turn at the start of the user turn behind it."""
    if len(marked) < 2 or [turn["role"] for turn in marked[:2]] != ["system", "user"]:
        return list(marked)
    return [_joined(marked[0], marked[1], "user"), *marked[2:]]


def _alternating(marked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation as turns of a user and an assistant that alternate, each text in its place.

    What systems and tools say stands in the user's turns, and calls of tools are text.
    """
    turns: list[dict[str, Any]] = []
    for turn in marked:
        role = "assistant" if turn["role"] == "assistant" else "user"
        texts = [turn["content"], json.dumps(turn["tool_calls"]) if turn.get("tool_calls") else ""]
        found = {"role": role, "content": "\n".join(text for text in texts if text)}
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": ""})
        if turns and turns[-1]["role"] == role:
            found = _joined(turns.pop(), found, role)
        turns.append(found)
    return turns


def _joined(first: dict[str, Any], second: dict[str, Any], role: str) -> dict[str, Any]:
    return {**second, "role": role, "content": f"{first['content']}\n\n{second['content']}"}


_TOOL_KEYS = frozenset({"id", "type", "function", "name", "arguments"})


def _first_texts(messages: Sequence[Message]) -> dict[int, int]:
    """Map the number of each message's content among the hidden texts to its turn, in `_mark`'s order."""
    starts, number = {}, 0
    for turn, message in enumerate(messages):
        starts[number] = turn
        number += _texts_of(message)
    return starts


def _texts_of(message: Message) -> int:
    """Count the hidden texts of a message."""
    calls = sum(_count_texts(call) for call in message.tool_calls or ())
    return 1 + (message.name is not None) + calls


def _answer_number(messages: Sequence[Message]) -> str:
    """Return the number of the last message's content, as it stands between markers."""
    return f"{sum(map(_texts_of, messages[:-1])):06d}"


def _unread_calls(messages: Sequence[Message], shown: set[int]) -> set[int]:
    """Return the turns for which the template has left out all tool calls."""
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
    """Find the regions from the turns in `spans`. An answer that a client has begun belongs to the prompt."""
    last = spans[-1]
    before = [span for span in (spans[:-1] if ends_with_answer else spans) if span.role not in _INSTRUCTING]
    asked = max((span.turn for span in before if span.role != "assistant"), default=-1)
    earlier = max(
        (span.turn for span in before if span.role == "assistant" and span.turn < asked), default=-1
    )
    # All turns since the model last spoke are judged as one, including tool results.
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
    """Return the tokens that sampling must never emit: all control tokens except the end of turn."""
    return frozenset(control_ids) - frozenset(eos_ids)
