"""Word filters for generated answers: unwanted refusals, and answers that miss the question.

Both filters use English words. They miss a refusal in other words or another language, and an answer that
repeats the right words but says nothing. They stop a good answer that shares no word with the question.
Count the answers that they stop, read some of them, and use a judge where one can be trusted.
"""

import re
from dataclasses import dataclass

from lockgate.exchanges import normalise_text

# A refusal comes at the start. Later in an answer, the same words are mostly quoted or mean something else.
_OPENING_CHARACTERS = 240
_STEM = 5
_MIN_CONTENT_WORDS = 3
_ECHO_SHARE = 0.9

_NEGATED = (
    r"I (?:can(?:no|')?t|can not|won't|will not|am (?:not able|unable|not going) to)"
    r"|I'm (?:not able|unable|not going) to"
)
_LEAD = r"(?:really |just |simply |ethically |in good conscience |be able to |possibly )?"
_GIVING = (
    r"(?:help|assist|provide|give|share|offer|answer|discuss|comply|continue|fulfil+|support|engage|do that"
    r"|write|create|generate|reveal|explain|tell you|disclose|participate|complete|respond)"
)
_UNABLE = r"(?:can't|cannot|can not|unable|not able|won't|will not|must decline)"
_RULES = r"(?:guidelines|programming|polic(?:y|ies)|principles)"
_SAYING = r"(?:say|share|discuss|talk|help|answer|get into|go into)"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for name, pattern in (
        ("declines", rf"\b(?:{_NEGATED}) {_LEAD}{_GIVING}\b"),
        ("declines_request", r"\bI (?:must|have to|need to|will have to) (?:decline|refuse)\b"),
        (
            "apologises",
            rf"\A\W*(?:I(?:'m| am) )?(?:very |so |deeply )?(?:sorry|apologi[sz]e)\b.{{0,60}}\b{_UNABLE}\b",
        ),
        ("speaks_as_model", r"\A\W*as an? (?:\w+ )?(?:ai|language model|assistant)\b"),
        ("names_policy", rf"\bagainst my (?:\w+ )?{_RULES}\b"),
        ("keeps_from", rf"\bI(?:'d| would) (?:rather|prefer) not (?:to )?{_SAYING}\b"),
    )
)

_COMMON = frozenset(
    normalise_text(
        "a about above after again all also am an and any are as at be because been before being between "
        "both but by can could describe did do does done each either else ever every explain few for from "
        "get give go going had has have help her here him his how i if in into is it its just know less let "
        "like list make many may me might more most much must my name need new no not now of off on one "
        "only or other our out over own please say see she should show so some such tell than that the "
        "their them then there these they thing things this those three through to too two under until up "
        "us use used using very want was way we well were what when where which while who whom whose why "
        "will with would write you your"
    ).split(" ")
)


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """The reason why an answer is stopped: the rule and the measured value. It holds no text."""

    rule: str
    value: float

    @property
    def reason(self) -> str:
        """One line for a rejected row."""
        return f"{self.rule}: {self.value:.4g}"


def find_refusal(answer: str) -> AnswerFault | None:
    """Find the rule by which an answer's opening reads as a refusal, or return None.

    The fault's value is the position of the refusal in characters. An answer without text breaks the rule
    `refusal_empty`.
    """
    if not answer.strip():
        return AnswerFault("refusal_empty", 0.0)
    opening = answer.lstrip()[:_OPENING_CHARACTERS].replace("’", "'")
    for name, pattern in _PATTERNS:
        if found := pattern.search(opening):
            return AnswerFault(f"refusal_{name}", float(found.start()))
    return None


def find_off_topic(prompt: str, answer: str, *, topic: str = "") -> AnswerFault | None:
    """Find the rule by which an answer misses its prompt, or return None.

    The rules are:

    - `off_topic`: the answer holds no content word of the prompt or of `topic`. Words are compared by their
      first five letters. A prompt of fewer than three content words is not judged.
    - `echo`: at least nine tenths of the answer's words repeat the prompt in order, and the answer is not
      longer than the prompt.

    Args:
        prompt: the prompt's text.
        answer: the answer's text.
        topic: more text on the topic, such as a category's title and description.
    """
    asked, said = normalise_text(prompt).split(" "), normalise_text(answer).split(" ")
    content, topical = content_stems(prompt), content_stems(topic)
    present = {word[:_STEM] for word in said}
    shared = len((content | topical) & present)
    if len(content) >= _MIN_CONTENT_WORDS and not shared:
        return AnswerFault("off_topic", 0.0)
    repeated = _leading_overlap(asked, said)
    if len(said) >= _MIN_CONTENT_WORDS and len(said) <= len(asked) and repeated >= _ECHO_SHARE:
        return AnswerFault("echo", repeated)
    return None


def content_stems(text: str) -> frozenset[str]:
    """Return the first five letters of a text's content words. Rules about topics compare them."""
    return frozenset(
        word[:_STEM] for word in normalise_text(text).split(" ") if len(word) > 2 and word not in _COMMON
    )


def _leading_overlap(asked: list[str], said: list[str]) -> float:
    """Return the share of the answer's words that the prompt holds in this order, up to the first miss."""
    rest = iter(asked)
    matched = 0
    for word in said:
        for candidate in rest:
            if candidate == word:
                matched += 1
                break
        else:
            break
    return matched / len(said)
