"""What a model thought before it answered, where an endpoint sends that in the answer's text.

No row of a data set may hold it: a guard would learn to tell thoughts from answers. Marked thoughts are taken
out; an answer that is cut within one, or has nothing besides, is none.
"""

import re

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think)"
_OPEN = rf"(?:<{_NAMES}>|\[THINK\]|◁think▷)"
_CLOSE = rf"(?:</{_NAMES}>|\[/THINK\]|◁/think▷)"
_WHOLE = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.DOTALL | re.IGNORECASE)
_FIRST_CLOSE = re.compile(_CLOSE, re.IGNORECASE)
_ANY = re.compile(rf"{_OPEN}|{_CLOSE}|<\|channel\|>|<\|message\|>", re.IGNORECASE)
# Channels, with their control tokens, or with the names alone where a server has dropped those.
_CHANNELS = re.compile(
    r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>.*<\|channel\|>final(?:\s*<\|constrain\|>\w+)?<\|message\|>",
    re.DOTALL,
)
_FINAL = re.compile(r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>")
_BARE_CHANNELS = re.compile(r"\Aanalysis(?=\S).*?assistantfinal(?=\S)", re.DOTALL)
_END = re.compile(r"<\|(?:return|end)\|>\s*\Z")


def strip_reasoning(text: str) -> str | None:
    """The answer in a text without what was thought before it; None where no answer can be told apart.

    A closing mark alone ends a thought that the prompt had opened.
    """
    left = _FINAL.sub("", _CHANNELS.sub("", text, count=1), count=1)
    if left != text:
        left = _END.sub("", left)
    left = _WHOLE.sub("", _BARE_CHANNELS.sub("", left, count=1))
    while (closed := _FIRST_CLOSE.search(left)) is not None:
        left = left[closed.end() :]
    if left == text:
        # Not even white space is taken from an answer without marks.
        return None if _ANY.search(text) else text
    return None if _ANY.search(left) else left.strip() or None
