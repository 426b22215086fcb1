"""Reading lists and questions out of what generators write, however they number, quote or introduce them."""

import re

from lockgate.exchanges import find_refusal, normalise_text

_ITEM = re.compile(r"^\s*(?:\(?\d{1,3}\s*[.):]\)?|[-*•‣–]|Q\d*\s*[:.])\s*(?P<text>.*)$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:\*\*|__)?(?:question|title|topic|q|stage)\s*\d*(?:\*\*|__)?\s*[:.]\s*", re.IGNORECASE
)
_MARKS = "*_`\"“”«»' "
_END = re.compile(r"[.?!…)\"”]\s*$")
_MIN_WORDS, _MAX_WORDS, _MAX_CHARACTERS = 3, 60, 400
# How a request begins that is no question.
_ASKING_TEXT = (
    "i i'd i'm i've my we our tell explain describe give write show list help name suggest compare "
    "teach walk share find create make let please can could would will do does did is are was were "
    "am should may might how what what's when where which who whom whose why in for if imagine "
    "summarise summarize recommend draft outline translate discuss define calculate propose provide "
    "plan prepare advise reveal"
)
_ASKING = frozenset(_ASKING_TEXT.split())


def read_list(text: str, *, finished: bool = True) -> list[str]:
    """Items of a numbered or bulleted list; without any marks, the lines. A cut one is left out.

    Text before the first mark is an introduction, and lines without a mark after it belong to nothing.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and not finished and not _END.search(lines[-1]):
        lines.pop()
    marked = [found.group("text") for line in lines if (found := _ITEM.match(line))]
    items = (_LABEL.sub("", item.strip()).strip(_MARKS) for item in marked or lines)
    return [item for item in items if item]


def read_questions(text: str, *, finished: bool = True) -> list[str]:
    """Items of a list that ask for something, each once, in their order."""
    questions: dict[str, str] = {}
    for item in read_list(text, finished=finished):
        question = re.sub(r"\s+", " ", item)
        if is_question(question):
            questions.setdefault(normalise_text(question), question)
    return list(questions.values())


def is_question(text: str) -> bool:
    """Whether a line asks for something, in a length that people write."""
    words = text.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or len(text) > _MAX_CHARACTERS:
        return False
    first = words[0].casefold().strip(",.:;!?")
    # "I'm sorry, but ..." begins like a request.
    return (text.endswith("?") or first in _ASKING) and find_refusal(text) is None


def read_question(text: str) -> str | None:
    """The one question that a text is or begins with, or None."""
    for line in read_list(text):
        if is_question(line):
            return re.sub(r"\s+", " ", line)
    return None
