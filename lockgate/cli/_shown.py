"""Exchanges on a terminal: wrapped to its width, and with nothing in them that a terminal obeys."""

import json
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from lockgate.exchanges import Exchange, Message

# Controls, formats such as the direction of text, surrogates, private and unassigned characters, separators
# of lines and paragraphs. A terminal may obey them, or show nothing.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_KEPT = "\n\t"


def escape_controls(text: str) -> str:
    """Return a text in which each character that a terminal obeys or hides is written as an escape.

    Line breaks and tabs stay; CRLF becomes a line break.
    """
    return "".join(_shown(character) for character in text.replace("\r\n", "\n"))


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def show_exchange(console: Console, exchange: "Exchange") -> None:
    """Print the turns of an exchange. The last one is the answer that a verdict is about."""
    last = len(exchange.messages) - 1
    for place, message in enumerate(exchange.messages):
        role = message.role if message.name is None else f"{message.role} ({escape_controls(message.name)})"
        console.print(Text(f"{role}{', the answer to judge' if place == last else ''}:", style="bold"))
        body = Text(_body(message), overflow="fold", tab_size=4)
        console.print(Padding(body, (0, 0, 0, 2)))
        console.print()


def _body(message: "Message") -> str:
    calls = (
        []
        if message.tool_calls is None
        else [json.dumps(call, ensure_ascii=False) for call in message.tool_calls]
    )
    return escape_controls("\n".join([message.content, *calls] if message.content else calls)) or "(empty)"


def show_score(console: Console, scored: Mapping[str, Any]) -> None:
    """Print what a guard said of an exchange, as `meta.scored` tells it."""
    score, cut = scored.get("score"), scored.get("cut")
    if not isinstance(score, int | float) or not isinstance(cut, int | float):
        console.print("guard: the file holds no score of this exchange", markup=False)
        return
    side = "above" if score > cut else "not above"
    named = scored.get("category")
    category = "" if named is None else f", category {escape_controls(str(named))}"
    console.print(f"guard: score {score:.4f}, {side} the threshold {cut:.4f}{category}", markup=False)
