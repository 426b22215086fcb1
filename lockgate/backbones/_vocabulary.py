"""From text to tokens and back: text of the template, text of people, and the model's own answer.

Added tokens are of three kinds:

- Control tokens are special, or the template writes them around turns. No text becomes one, and the model
  writes none except the end of its turn.
- Blanks and line breaks are text like any other.
- The rest (`</think>`, `<table>`) are words of the model. The model may write them, and its finished answer
  is read with them. The same letters in any other text become ordinary tokens.

A tokenizer splits a text into words first. So while an answer still arrives, more text only changes the
tokens of its last word. These tokens are the *tail*. All others are settled: the finished answer has them.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Tokenizer

from lockgate.errors import BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# SentencePiece vocabularies write a blank like this.
_BLANK = "\u2581"
REPLACEMENT = "\ufffd"
# A byte-level token holds at least one byte, and a character has at most four. If the text still ends in a
# replacement character after this many tokens, no byte is missing: the model wrote malformed UTF-8.
LONGEST_INCOMPLETE = 8
# The tail of a text without blanks is cut here, so that the work for each new piece stays bounded.
LONGEST_TAIL = 256
# Text that is tokenised at a time. More waits, so that one long text does not keep the caller busy.
LONGEST_CHUNK = 4096
# A template may write an empty thought before an answer. The model must still be able to close its own.
_THOUGHT = re.compile(r"think|thought|reason", re.IGNORECASE)


class TextToken(NamedTuple):
    """A token and the characters that it completes. They are none if a later token completes them."""

    id: int
    text: str


class Vocabulary:
    """A tokenizer's ways of reading text, without truncation, padding or random merges.

    Args:
        embeddings: rows of the model's embedding. The model can't read ids from there on. None: it reads all.

    Attributes:
        added_ids: every added token.
        control_ids: added tokens that no text may become. The set is complete only after `note_turns`.

    Raises:
        BackboneError: the tokenizer is not a fast one, or it has ordinary tokens without an embedding.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", embeddings: int | None = None) -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise BackboneError("the tokenizer has no tokenizer.json; convert it to a fast tokenizer first")
        self._backend = backend
        state = json.loads(backend.to_str())
        self._contents = {token["id"]: token["content"] for token in state["added_tokens"]}
        self.added_ids = frozenset(self._contents)
        special = {token["id"] for token in state["added_tokens"] if token["special"]}
        self.control_ids = frozenset(special | (set(tokenizer.all_special_ids) & self.added_ids))
        self.unreadable_ids = frozenset(
            token for token in self.added_ids if embeddings is not None and token >= embeddings
        )
        _check_size(state["model"].get("vocab"), self.added_ids, embeddings)
        blanks = [token for token in state["added_tokens"] if self._is_blank(token)]
        self._blank_ids = frozenset(token["id"] for token in blanks)
        # A token that absorbs the blanks around it would hide text.
        state["added_tokens"] = [{**token, "lstrip": False, "rstrip": False} for token in blanks]
        state["post_processor"] = state["truncation"] = state["padding"] = None
        if state["model"].get("dropout") is not None:
            state["model"]["dropout"] = None
        self._plain = Tokenizer.from_str(json.dumps(state))
        # The copy leaves out some added tokens, so it may number the others differently.
        self._own_ids = {self._plain.token_to_id(token["content"]): token["id"] for token in blanks}
        self._words: re.Pattern[str] | None = None
        self._ids_of_words: dict[str, int] = {}
        self.note_turns(())

    def note_turns(self, written: Iterable[str]) -> None:
        """Add the added tokens that a template writes between texts to the control tokens."""
        found = {token for text in written for token in self.encode_template(text)} & self.added_ids
        marks = {
            token
            for token in found - self._blank_ids
            if token in self.control_ids or not _THOUGHT.search(self._contents[token])
        }
        self.control_ids |= marks
        words = self.added_ids - self.control_ids - self._blank_ids - self.unreadable_ids
        self._ids_of_words = {self._contents[token]: token for token in words}
        by_length = sorted(self._ids_of_words, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, by_length))) if by_length else None

    def encode_template(self, text: str) -> list[int]:
        """Tokenise text that a template writes, with its control tokens."""
        # The tokenizer's file, or an earlier caller, may have set a length limit.
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        if getattr(self._backend.model, "dropout", None) is not None:
            self._backend.model.dropout = None
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Tokenise text of people. Any spelling of an added token that isn't blank becomes ordinary tokens.

        Raises:
            BackboneError: the text is not valid Unicode.
        """
        return [token for token, _ in self._encode(text, self.added_ids - self._blank_ids)]

    def encode_answer(self, text: str) -> list[int]:
        """Tokenise the model's own answer: like `encode_text`, but with the added tokens that it may write.

        Raises:
            BackboneError: the text is not valid Unicode.
        """
        return [token for token, _ in self._answer_places(text)]

    def encode_answer_tokens(self, text: str) -> list[TextToken]:
        """Tokenise as `encode_answer` does, and tell which part of the text each token completes.

        The parts make up the text, if there is a token at all. Letters without a token stand with the one
        before them.

        Raises:
            BackboneError: the text is not valid Unicode.
        """
        places = self._answer_places(text)
        tokens, end = [], 0
        for index, (token, _) in enumerate(places, 1):
            stop = max(end, places[index][1]) if index < len(places) else len(text)
            tokens.append(TextToken(token, text[end:stop]))
            end = stop
        return tokens

    def _answer_places(self, text: str) -> list[tuple[int, int]]:
        """Return the tokens of an answer, each with the place in the text where it begins."""
        if self._words is None:
            return self._encode(text, self.added_ids - self._blank_ids)
        barred, end = self.control_ids | self.unreadable_ids, 0
        places: list[tuple[int, int]] = []
        for word in self._words.finditer(text):
            places += self._encode(text[end : word.start()], barred, end)
            places.append((self._ids_of_words[word[0]], word.start()))
            end = word.end()
        return places + self._encode(text[end:], barred, end)

    def _encode(self, text: str, barred: frozenset[int], offset: int = 0) -> list[tuple[int, int]]:
        """Return tokens, each with the place where it begins, counted from `offset`."""
        try:
            found = self._plain.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise BackboneError("messages: text that is not valid Unicode (a lone surrogate)") from None
        places: list[tuple[int, int]] = []
        for number, (start, end) in zip(found.ids, found.offsets, strict=True):
            token = self._own_ids.get(number, number)
            if token in barred:
                # This vocabulary also holds the added token as an ordinary piece.
                places += [(spelt, offset + start) for spelt in self._spell(text[start:end], barred)]
            else:
                places.append((token, offset + start))
        return places

    def _spell(self, text: str, barred: frozenset[int]) -> list[int]:
        """Spell text letter by letter or byte by byte, so that no barred token forms.

        A letter that has no such spelling is left out.
        """
        ids: list[int] = []
        for letter in text:
            numbers = self._plain.encode(letter, add_special_tokens=False).ids
            found = [self._own_ids.get(number, number) for number in numbers]
            if not barred.isdisjoint(found):
                spelt = [self._plain.token_to_id(f"<0x{byte:02X}>") for byte in letter.encode()]
                found = [token for token in spelt if token is not None]
            ids.extend(token for token in found if token not in barred)
        return ids

    def _is_blank(self, token: dict[str, Any]) -> bool:
        apart = token["id"] in self.control_ids or token["id"] in self.unreadable_ids
        return not apart and not token["content"].replace(_BLANK, " ").strip()


def _check_size(vocabulary: object, added: frozenset[int], embeddings: int | None) -> None:
    """Refuse ordinary tokens without an embedding, because they can't be kept out of texts."""
    if embeddings is None:
        return
    ids: Iterable[int] = ()
    if isinstance(vocabulary, dict):
        ids = vocabulary.values()
    elif isinstance(vocabulary, list):
        ids = range(len(vocabulary))
    beyond = sum(1 for token in ids if token >= embeddings and token not in added)
    if beyond:
        raise BackboneError(
            f"the tokenizer has {beyond} tokens from id {embeddings} on, and the model's embedding has only "
            f"{embeddings} rows; take the tokenizer that belongs to these weights"
        )


class AnswerTokeniser:
    """The tokens of one answer, as its text arrives. The texts of all tokens make up the text.

    Args:
        encode: tokenises a text as the model's own answer. The texts of the tokens make up the text, except
            for a rest that has no token.
    """

    def __init__(self, encode: Callable[[str], list[TextToken]]) -> None:
        self._encode = encode
        self._raw = ""  # text that is not tokenised yet
        self._tail = ""  # text behind the settled tokens, as far as it is tokenised
        self._before = ""  # the settled word before the tail
        self._ended = False

    def push(self, text: str) -> None:
        """Take more text."""
        self._raw += text

    def end(self) -> None:
        """No more text follows, so the rest can be settled."""
        self._ended = True

    @property
    def unsettled(self) -> bool:
        """Whether `settle` has more to tokenise."""
        return bool(self._raw) or (self._ended and bool(self._tail))

    @property
    def rest(self) -> bool:
        """Whether there is text behind the settled tokens."""
        return bool(self._raw or self._tail)

    def settle(self) -> list[TextToken]:
        """Tokenise a chunk of what has arrived. Return the tokens that are settled by now."""
        self._tail += self._raw[:LONGEST_CHUNK]
        self._raw = self._raw[LONGEST_CHUNK:]
        if self._ended and not self._raw:
            return self._take(len(self._tail))
        cut = _last_boundary(self._tail)
        if cut:
            return self._take(cut)
        if len(self._tail) <= LONGEST_TAIL:
            return []
        tokens = self.tail()
        half = tokens[: max(1, len(tokens) // 2)]
        return self._take(sum(len(token.text) for token in half) or len(self._tail))

    def tail(self) -> list[TextToken]:
        """Return the tokens of the tail, as if the text ended here. More text may change them."""
        return self._encode_after(self._before, self._tail)

    def _take(self, end: int) -> list[TextToken]:
        text, self._tail = self._tail[:end], self._tail[end:]
        tokens = self._encode_after(self._before, text)
        if text:
            words = text.split(" ")
            self._before = (" " if len(words) > 1 else "") + words[-1][-LONGEST_TAIL:]
        return tokens

    def _encode_after(self, before: str, text: str) -> list[TextToken]:
        """Tokenise `text` as it stands after `before`, since a tokenizer may treat the start specially."""
        if not text:
            return []
        tokens = self._encode(before + text)
        start, skip = 0, 0
        while skip < len(tokens) and start < len(before):
            start += len(tokens[skip].text)
            skip += 1
        # A token across the boundary would read settled text again. Then `text` is tokenised by itself.
        return tokens[skip:] if start == len(before) else self._encode(text)


def _last_boundary(text: str) -> int:
    """Return the last place before a blank that follows a word, 0 without one. Tokens don't cross it."""
    cut = text.rfind(" ")
    while cut > 0 and text[cut - 1].isspace():
        cut = text.rfind(" ", 0, cut)
    return max(cut, 0)


class Detokeniser:
    """Turns a stream of token ids into text. Text that was returned never changes later.

    Tokens are decoded after a little context, because their text may depend on the token before (a leading
    space, a half-written character).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # first token that is decoded
        self._read = 0  # tokens before this one have been given out as text

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes. It is empty while a character is incomplete."""
        self._ids.append(token_id)
        return self._take(final=False)

    def finish(self) -> str:
        """Return the rest of the text at the end of the stream, with malformed bytes as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        if self._read == len(self._ids):
            return ""
        before = self._decode(self._ids[self._context : self._read])
        after = self._decode(self._ids[self._context :])
        waiting = len(self._ids) - self._read
        if after.endswith(REPLACEMENT) and not final and waiting < LONGEST_INCOMPLETE:
            return ""
        self._context, self._read = self._read, len(self._ids)
        if self._context > 64:
            del self._ids[: self._context]
            self._read -= self._context
            self._context = 0
        return after[len(before) :]
