"""Where attack words stand in an exchange: slots in a conversation whose own text never changes.

A slot holds whole words, each one token with a leading blank. A choice of words counts only if the rendered
conversation has exactly these tokens, so what was found for tokens also holds for the text that is sent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from lockgate.backbones import Backbone, RenderedChat
from lockgate.errors import RedTeamError
from lockgate.exchanges import Message

# A sentence ends here if a blank follows.
_SENTENCE = re.compile(r"[.!?:;](?=\s)|(?<=\S)(?=\n)")
_WORD = re.compile(r" [A-Za-z]{2,}")
_VOCABULARIES: WeakKeyDictionary[Backbone, tuple[int, ...]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for attack words.

    Attributes:
        message: number of the message.
        at: character of the message's own text before which the words stand.
        size: words, one token each.
        tail: text between the last word and the message's own text.
    """

    message: int
    at: int
    size: int
    tail: str = ""


def word_tokens(backbone: Backbone) -> tuple[int, ...]:
    """Return the tokens that are whole words of Latin letters with a leading blank, and that text becomes.

    Raises:
        RedTeamError: the tokenizer has no such token.
    """
    found = _VOCABULARIES.get(backbone)
    if found is None:
        encode = backbone.chat.encode_text
        before = encode("a")
        start = len(backbone.decode(before))
        found = tuple(
            token
            for token in range(backbone.vocab_size)
            if _WORD.fullmatch(word := backbone.decode([*before, token])[start:])
            and encode(f"a{word}") == [*before, token]
        )
        if not found:
            raise RedTeamError(f"{backbone.name}: its tokenizer has no token that is a whole word")
        _VOCABULARIES[backbone] = found
    return found


def make_slots(
    messages: Sequence[Message], *, prefix: int, suffix: int, filler: int, gaps: int
) -> tuple[Slot, ...]:
    """Choose the slots of an exchange, in the order of its text.

    Args:
        messages: the exchange. The last message is the answer, the one before it the prompt.
        prefix, suffix: words before and after the prompt's own text.
        filler: words in each gap between sentences of the answer.
        gaps: largest number of gaps. They are spread evenly.

    Raises:
        RedTeamError: there is no answer after a prompt, or no place for any word.
    """
    if len(messages) < 2 or messages[-1].role != "assistant" or not messages[-1].content:
        raise RedTeamError("expected a conversation that ends in an answer to a prompt")
    prompt, answer = len(messages) - 2, len(messages) - 1
    slots = []
    if prefix:
        slots.append(Slot(prompt, 0, prefix, "\n"))
    if suffix:
        slots.append(Slot(prompt, len(messages[prompt].content), suffix))
    if filler:
        ends = sorted({match.end() for match in _SENTENCE.finditer(messages[answer].content)})
        count = min(gaps, len(ends))
        slots += [Slot(answer, ends[number * len(ends) // count], filler) for number in range(count)]
    if not slots:
        raise RedTeamError("no place for attack words; give prefix, suffix, or filler for several sentences")
    return tuple(slots)


class Layout:
    """A conversation with slots.

    Attributes:
        backbone: its tokenizer and template.
        slots: the places.
        size: words of all slots together.
        initial: the words at the beginning.
        chat: the rendered conversation with the initial words. With other words only `positions` differ.
        positions: positions of the words in `chat.token_ids`.

    Raises:
        RedTeamError: the tokenizer does not keep the words as they are, or the exchange is longer than `most`
            tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        messages: Sequence[Message],
        slots: Sequence[Slot],
        initial: Sequence[int],
        most: int,
    ) -> None:
        self.backbone = backbone
        self.slots = tuple(slots)
        self.size = sum(slot.size for slot in slots)
        self.initial = tuple(initial)
        self._messages = tuple(messages)
        before = backbone.chat.encode_text("a")
        self._before, self._skip = before, len(backbone.decode(before))
        self.chat: RenderedChat = backbone.render(self.messages(self.initial))
        if len(self.chat.token_ids) > most:
            raise RedTeamError(f"the exchange has {len(self.chat.token_ids)} tokens; at most {most} are read")
        self.positions = self._find()

    def word(self, token: int) -> str:
        """Return a token's text as it stands after a word."""
        return self.backbone.decode([*self._before, token])[self._skip :]

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each slot."""
        found, start = [], 0
        for slot in self.slots:
            found.append("".join(map(self.word, tokens[start : start + slot.size])))
            start += slot.size
        return tuple(found)

    def messages(self, tokens: Sequence[int]) -> tuple[Message, ...]:
        """Return the conversation with these words in its slots."""
        return fill(self._messages, self.slots, self.texts(tokens))

    def ids(self, tokens: Sequence[int]) -> list[int]:
        """Return the conversation's tokens with these words in its slots."""
        ids = list(self.chat.token_ids)
        for position, token in zip(self.positions, tokens, strict=True):
            ids[position] = token
        return ids

    def stable(self, tokens: Sequence[int]) -> bool:
        """Tell whether the text with these words becomes these tokens again."""
        return self.backbone.render(self.messages(tokens)).token_ids == self.ids(tokens)

    def _find(self) -> tuple[int, ...]:
        """Return the positions of the initial words, slot by slot."""
        spans = {span.turn: span for span in self.chat.spans}
        found: list[int] = []
        start = 0
        shifts: dict[int, int] = {}
        for slot, text in zip(self.slots, self.texts(self.initial), strict=True):
            begin = slot.at + shifts.get(slot.message, 0)
            span = spans[slot.message]
            ids = self.chat.token_ids[span.start : span.end]
            places = _places(self.backbone, self._filled(slot.message), ids)
            end = begin + len(text)
            here = [place for place, (a, b) in enumerate(places) if begin <= a < b <= end]
            tokens = self.initial[start : start + slot.size]
            if tuple(ids[place] for place in here) != tuple(tokens):
                raise RedTeamError(
                    f"{self.backbone.name}: words in message {slot.message} are not read as they were chosen"
                )
            found += [span.start + place for place in here]
            start += slot.size
            shifts[slot.message] = shifts.get(slot.message, 0) + len(text) + len(slot.tail)
        return tuple(found)

    def _filled(self, message: int) -> str:
        return self.messages(self.initial)[message].content


def fill(messages: Sequence[Message], slots: Sequence[Slot], texts: Sequence[str]) -> tuple[Message, ...]:
    """Put the text of each slot in its place. The messages' own text stays as it is."""
    filled = list(messages)
    for slot, text in sorted(zip(slots, texts, strict=True), key=lambda pair: -pair[0].at):
        own = filled[slot.message].content
        made = f"{own[: slot.at]}{text}{slot.tail}{own[slot.at :]}"
        filled[slot.message] = replace(filled[slot.message], content=made)
    return tuple(filled)


def _places(backbone: Backbone, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return where each token of a message begins and ends in its text."""
    tokeniser = backbone.tokenise_answer()
    tokeniser.push(text)
    tokeniser.end()
    tokens = []
    while tokeniser.unsettled:
        tokens += tokeniser.settle()
    if [token.id for token in tokens] != list(ids):
        # A user's spelling of one of the model's own added words is read in another way.
        raise RedTeamError(
            f"{backbone.name}: a message is read unlike an answer; no words can be placed in it"
        )
    places, end = [], 0
    for token in tokens:
        places.append((end, end + len(token.text)))
        end += len(token.text)
    return places
