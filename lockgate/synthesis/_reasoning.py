"""Removal of a model's thoughts, which some endpoints send in the text of an answer.

No row of a data set may hold thoughts: a guard would learn to tell thoughts from answers. Marked thoughts are
removed. A text that is cut within a thought, or that holds only thoughts, has no answer.
"""

import re

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think)"
_OPEN = rf"(?:<{_NAMES}>|\[THINK\]|◁think▷)"
_CLOSE = rf"(?:</{_NAMES}>|\[/THINK\]|◁/think▷)"
_WHOLE = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.DOTALL | re.IGNORECASE)
_FIRST_CLOSE = re.compile(_CLOSE, re.IGNORECASE)
_ANY = re.compile(rf"{_OPEN}|{_CLOSE}|<\|channel\|>|<\|message\|>", re.IGNORECASE)
# Channels with their control tokens, or with their names alone if a server has dropped the tokens.
_CHANNELS = re.compile(
    r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>.*<\|channel\|>final(?:\s*<\|constrain\|>\w+)?<\|message\|>",
    re.DOTALL,
)
_FINAL = re.compile(r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>")
_BARE_CHANNELS = re.compile(r"\Aanalysis(?=\S).*?assistantfinal(?=\S)", re.DOTALL)
_END = re.compile(r"<\|(?:return|end)\|>\s*\Z")


def strip_reasoning(text: str) -> str | None:
    """Return the answer in a text without the thoughts before it, or None if no answer can be told apart.

    A closing mark without an opening mark ends a thought that the prompt opened.
    """
    left = _FINAL.sub("", _CHANNELS.sub("", text, count=1), count=1)
    if left != text:
        left = _END.sub("", left)
    left = _WHOLE.sub("", _BARE_CHANNELS.sub("", left, count=1))
    while (closed := _FIRST_CLOSE.search(left)) is not None:
        left = left[closed.end() :]
    if left == text:
        # An answer without marks stays as it is, white space included.
        return None if _ANY.search(text) else text
    return None if _ANY.search(left) else left.strip() or None
