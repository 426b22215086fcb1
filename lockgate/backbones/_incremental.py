"""Tokenising an answer while its text still arrives.

A tokenizer splits a text into words first, so more text only changes the tokens of the last word. These
tokens are the *tail*. All others are settled: they are the tokens that the finished answer has.
"""

from collections.abc import Callable

from lockgate.backbones._vocabulary import TextToken

# The tail of a text without blanks is cut here, so that the work for each new piece stays bounded.
LONGEST_TAIL = 256
# Text that is tokenised at a time. More waits, so that one long text does not keep the caller busy.
LONGEST_CHUNK = 4096


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
