"""Codes: pure functions from text to text, with their inverses.

A code is exact for a text if `decode(encode(text)) == text`. `exact` tells for which texts; codes without it
are exact for all valid Unicode. A code also encodes other texts, but then several letters decode to the same
one.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEET = str.maketrans("abeiost", "4831057")
_FROM_LEET = str.maketrans("4831057", "abeiost")
_LATIN, _ALIKE = "aceijopsxyABCEHIKMOPTXS", "асеіјорѕхуАВСЕНІКМОРТХЅ"
_FULL = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_WORD = re.compile(r"[A-Za-z]+")
_PIG = re.compile(r"([A-Za-z]*)-([A-Za-z]*)ay")
_CLUSTER = re.compile(r"[^aeiouAEIOU]*")
ZERO_WIDTH = "\u200b"

_MORSE = {
    **dict(zip(_UPPER[:9], (".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", ".."), strict=True)),
    **dict(zip(_UPPER[9:18], (".---", "-.-", ".-..", "--", "-.", "---", ".--.", "--.-", ".-."), strict=True)),
    **dict(zip(_UPPER[18:], ("...", "-", "..-", "...-", ".--", "-..-", "-.--", "--.."), strict=True)),
    **dict(zip("01234", ("-----", ".----", "..---", "...--", "....-"), strict=True)),
    **dict(zip("56789", (".....", "-....", "--...", "---..", "----."), strict=True)),
    **dict(zip(".,?'!/()&:;=+-\"@", (
        ".-.-.-", "--..--", "..--..", ".----.", "-.-.--", "-..-.", "-.--.", "-.--.-", ".-...", "---...",
        "-.-.-.", "-...-", ".-.-.", "-....-", ".-..-.", ".--.-.",
    ), strict=True)),
}  # fmt: skip
_FROM_MORSE = {code: letter for letter, code in _MORSE.items()}


@dataclass(frozen=True, slots=True)
class Codec:
    """A code. `growth` is the most characters out per character in. `title` names the code in a prompt."""

    name: str
    family: str
    title: str
    encode: Callable[[str], str]
    decode: Callable[[str], str]
    growth: float = 1.0
    exact: Callable[[str], bool] | None = None


def rotate(text: str, places: int) -> str:
    """Shift ASCII letters in the alphabet; `rotate(rotate(text, n), -n) == text`."""
    n = places % 26
    table = str.maketrans(_LOWER + _UPPER, _LOWER[n:] + _LOWER[:n] + _UPPER[n:] + _UPPER[:n])
    return text.translate(table)


def _bytes_codec(
    name: str, title: str, pack: Callable[[bytes], bytes], unpack: Callable[[str], bytes], growth: float
) -> Codec:
    return Codec(
        name,
        "byte-encodings",
        title,
        lambda text: pack(text.encode("utf-8")).decode("ascii"),
        lambda code: unpack(code).decode("utf-8"),
        growth,
    )


def _groups(form: str, base: int) -> tuple[Callable[[bytes], bytes], Callable[[str], bytes]]:
    """Make encoder and decoder of bytes as numbers between spaces."""
    return (
        lambda data: " ".join(format(byte, form) for byte in data).encode(),
        lambda code: bytes(int(group, base) for group in code.split()),
    )


def _to_morse(text: str) -> str:
    return "\n".join(
        " ".join("/" if c == " " else _MORSE.get(c.upper() if c.isascii() else c, c) for c in line)
        for line in text.split("\n")
    )


def _from_morse(code: str) -> str:
    return "\n".join(
        "".join(" " if sign == "/" else _FROM_MORSE.get(sign, sign) for sign in line.split(" "))
        for line in code.split("\n")
    )


def _to_pig(text: str) -> str:
    def turn(found: re.Match[str]) -> str:
        word = found.group()
        cut = _CLUSTER.match(word)
        start = cut.end() if cut else 0
        return f"{word[start:]}-{word[:start]}ay"

    return _WORD.sub(turn, text)


def _from_pig(code: str) -> str:
    return _PIG.sub(lambda found: found.group(2) + found.group(1), code)


def _without(letters: str) -> Callable[[str], bool]:
    banned = frozenset(letters)
    return lambda text: not banned & set(text)


_BACK = str.maketrans(_ALIKE, _LATIN)
_NARROW = {wide: narrow for narrow, wide in _FULL.items()}
_ATBASH = str.maketrans(_LOWER + _UPPER, _LOWER[::-1] + _UPPER[::-1])
_SUBSTITUTED, _ORDERED = "letter-substitution", "letter-order"

CODECS: tuple[Codec, ...] = (
    _bytes_codec("base64", "Base64", base64.b64encode, base64.b64decode, 8),
    _bytes_codec("base32", "Base32", base64.b32encode, base64.b32decode, 14),
    _bytes_codec("base85", "Ascii85", base64.a85encode, base64.a85decode, 10),
    _bytes_codec("hex", "hexadecimal", lambda data: data.hex().encode(), bytes.fromhex, 8),
    _bytes_codec("binary", "binary", *_groups("08b", 2), 36),
    _bytes_codec("octal", "octal", *_groups("03o", 8), 16),
    _bytes_codec("decimal", "decimal byte values", *_groups("d", 10), 16),
    Codec("percent", "byte-encodings", "URL encoding", lambda text: quote(text, safe=""), unquote, 12),
    Codec("rot13", _SUBSTITUTED, "ROT13", lambda t: rotate(t, 13), lambda t: rotate(t, -13)),
    Codec("rot5", _SUBSTITUTED, "a Caesar shift of five", lambda t: rotate(t, 5), lambda t: rotate(t, -5)),
    Codec("atbash", _SUBSTITUTED, "Atbash", lambda t: t.translate(_ATBASH), lambda t: t.translate(_ATBASH)),
    Codec(
        "leetspeak", _SUBSTITUTED, "leetspeak",
        lambda t: t.translate(_LEET), lambda t: t.translate(_FROM_LEET),
        exact=_without("4831057"),
    ),
    Codec(
        "homoglyphs", _SUBSTITUTED, "letters of another alphabet",
        lambda t: t.translate(str.maketrans(_LATIN, _ALIKE)), lambda t: t.translate(_BACK),
        exact=_without(_ALIKE),
    ),
    Codec(
        "fullwidth", _SUBSTITUTED, "full-width letters",
        lambda t: t.translate(_FULL), lambda t: t.translate(_NARROW),
        exact=_without("".join(map(chr, _NARROW))),
    ),
    # Case is lost. A character without a Morse sign stays as it is.
    Codec("morse", _SUBSTITUTED, "Morse code", _to_morse, _from_morse, 8, exact=_without(_LOWER)),
    Codec("reversed", _ORDERED, "reversed letters", lambda t: t[::-1], lambda t: t[::-1]),
    Codec(
        "reversed-words", _ORDERED, "reversed word order",
        lambda t: " ".join(t.split(" ")[::-1]), lambda t: " ".join(t.split(" ")[::-1]),
    ),
    Codec("pig-latin", _ORDERED, "pig Latin", _to_pig, _from_pig, 4, exact=_without("-")),
    Codec(
        "zero-width", "invisible", "letters with invisible gaps",
        lambda t: "".join(c + ZERO_WIDTH for c in t), lambda t: t[::2], 2,
    ),
    Codec("spaced", _ORDERED, "spaced letters", lambda t: "".join(c + " " for c in t), lambda t: t[::2], 2),
)  # fmt: skip
