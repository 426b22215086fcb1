"""Conversations as text for judges, and text as tokens that hold no control token of a user's making."""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from lockgate.errors import JudgeError
from lockgate.exchanges import Message
from lockgate.judges._judge import Talk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Text of the operator. A guard model's own template has no place for it.
_INSTRUCTING = ("system", "developer")
_PLACE = re.compile(r"\{(conversation|prompt|answer)\}")
Turn = tuple[str, str]


def turns_of(talk: Talk) -> list[Turn]:
    """Return a conversation as turns of `user` and `assistant` that alternate, for guard models.

    Operators' messages are left out. Tools speak on the user's side. An empty turn at the end is left out, so
    that a conversation without an answer is judged by its prompt.
    """
    turns: list[Turn] = []
    for message in talk:
        if message.role in _INSTRUCTING:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        text = _said(message)
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{text}")
        else:
            turns.append((role, text))
    while turns and not turns[-1][1].strip():
        turns.pop()
    return turns


def answer_of(talk: Talk) -> str:
    """Return the assistant's text at the end of a conversation, or no text."""
    return _said(talk[-1]) if talk and talk[-1].role == "assistant" else ""


def prompt_of(talk: Talk) -> str:
    """Return the last user message, or no text."""
    return next((message.content for message in reversed(talk) if message.role == "user"), "")


def transcript(talk: Talk) -> str:
    """Return all turns with their roles, for judges without a template of their own."""
    return "\n\n".join(f"{message.role}: {_said(message)}" for message in talk)


def fill(template: str, talk: Talk) -> str:
    """Return a template with a conversation in it. Braces in the conversation stay as they are."""
    parts: Mapping[str, Callable[[Talk], str]] = {
        "conversation": transcript,
        "prompt": prompt_of,
        "answer": answer_of,
    }
    return _PLACE.sub(lambda found: parts[found[1]](talk), template)


def _said(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    calls = json.dumps(list(message.tool_calls), ensure_ascii=False, sort_keys=True)
    return f"{message.content}\n{calls}" if message.content else calls


class Encoder:
    """A tokenizer's two ways of reading: templates with their control tokens, people's text without.

    Raises:
        JudgeError: the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", where: str) -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise JudgeError(f"{where}: the tokenizer has no tokenizer.json; convert it to a fast one first")
        self._template = _copy(backend)
        self._text = _copy(backend)
        self._text.encode_special_tokens = True

    def template(self, text: str) -> list[int]:
        """Return the tokens of a template's own text."""
        return list(self._template.encode(text, add_special_tokens=False).ids)

    def text(self, text: str) -> list[int]:
        """Return the tokens of people's text. No control token is among them."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def windows(self, text: str, limit: int) -> list[list[int]]:
        """Return people's text in windows of at most `limit` tokens, each with the model's end tokens.

        Windows overlap by a quarter, so that no phrase is only seen cut in two.
        """
        room = limit - self._text.num_special_tokens_to_add(False)
        if room < 2:
            raise JudgeError(f"max_tokens: expected room for text beside the end tokens, found {limit}")
        self._text.enable_truncation(limit, stride=room // 4)
        try:
            whole = self._text.encode(text)
        finally:
            self._text.no_truncation()
        return [list(part.ids) for part in (whole, *whole.overflowing)]


def _copy(backend: Tokenizer) -> Tokenizer:
    made = Tokenizer.from_str(backend.to_str())
    made.no_truncation()
    made.no_padding()
    return made


def render(
    tokenizer: "PreTrainedTokenizerFast",
    encoder: Encoder,
    turns: Sequence[Turn],
    arguments: Mapping[str, Any],
    lead: str,
) -> list[int]:
    """Return the tokens of a folder's own chat template over turns, up to the verdict.

    The template is rendered with random marks for the texts and cut at them, so that no user's text can write
    a control token.

    Args:
        arguments: further arguments of the template.
        lead: what the answer begins with. It is left out if the template writes it already.

    Raises:
        JudgeError: the template refuses the turns, or does not show the last one.
    """
    marks = [secrets.token_hex(16) for _ in turns]
    messages = [{"role": role, "content": mark} for (role, _), mark in zip(turns, marks, strict=True)]
    try:
        shown = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **arguments
        )
    except Exception as error:  # a template may raise anything, and its text may repeat the conversation
        raise JudgeError(f"the chat template refuses the conversation ({type(error).__name__})") from None
    text = str(shown)
    if not text.endswith(lead):
        text += lead
    texts = {mark: content for mark, (_, content) in zip(marks, turns, strict=True)}
    parts = re.split(f"({'|'.join(marks)})", text)
    if marks[-1] not in parts:
        raise JudgeError("the chat template leaves the last turn out")
    ids: list[int] = []
    for part in parts:
        ids += encoder.text(texts[part]) if part in texts else encoder.template(part) if part else []
    return ids
