"""Formats: an answer's lines as JSON, code, a table, verse, a log or XML, and back."""

import json
import re
from xml.sax.saxutils import escape, unescape

from lockgate.synthesis.augmentations._codecs import Codec

_FAMILY = "formats"
_VERSE_WORDS = 6
_BREAK = {"\r": "&#13;", "\t": "&#9;"}
_LOG = re.compile(r"^2031-03-\d\d \d\d:\d\d:00 INFO step=\d+ ")


def _to_json(text: str) -> str:
    return json.dumps({"answer": text.split("\n")}, ensure_ascii=False, indent=1)


def _from_json(code: str) -> str:
    return "\n".join(json.loads(code)["answer"])


def _to_code(text: str) -> str:
    body = [f"    yield {json.dumps(line, ensure_ascii=False)}" for line in text.split("\n")]
    return "\n".join(["def lines():", *body])


def _from_code(code: str) -> str:
    return "\n".join(json.loads(line.removeprefix("    yield ")) for line in code.split("\n")[1:])


def _to_table(text: str) -> str:
    rows = [
        f"| {number} | {line.replace(chr(92), chr(92) * 2).replace('|', chr(92) + '|')} |"
        for number, line in enumerate(text.split("\n"), 1)
    ]
    return "\n".join(["| no. | text |", "|---|---|", *rows])


def _from_table(code: str) -> str:
    cells = [line.split(" | ", 1)[1][: -len(" |")] for line in code.split("\n")[2:]]
    return "\n".join(re.sub(r"\\(.)", r"\1", cell) for cell in cells)


def _to_verse(text: str) -> str:
    stanzas = []
    for line in text.split("\n"):
        words = line.split(" ")
        rows = [words[start : start + _VERSE_WORDS] for start in range(0, len(words), _VERSE_WORDS)]
        stanzas.append("\n".join(" ".join(row) for row in rows))
    return "\n\n".join(stanzas)


def _from_verse(code: str) -> str:
    return "\n".join(stanza.replace("\n", " ") for stanza in code.split("\n\n"))


def _verse_keeps(text: str) -> bool:
    """Tell whether a text has no empty words: a double space could fall on a line break and be lost."""
    return all(line == "" or "" not in line.split(" ") for line in text.split("\n"))


def _to_log(text: str) -> str:
    return "\n".join(
        f"2031-03-{1 + i // 1440 % 28:02d} {i // 60 % 24:02d}:{i % 60:02d}:00 INFO step={i + 1} {line}"
        for i, line in enumerate(text.split("\n"))
    )


def _from_log(code: str) -> str:
    return "\n".join(_LOG.sub("", line) for line in code.split("\n"))


def _to_xml(text: str) -> str:
    return "\n".join(
        ["<answer>", *(f"<p>{escape(line, _BREAK)}</p>" for line in text.split("\n")), "</answer>"]
    )


def _from_xml(code: str) -> str:
    signs = {sign: character for character, sign in _BREAK.items()}
    # "&amp;" is decoded last, so that an ampersand of the text can't make a new reference.
    lines = (line[len("<p>") : -len("</p>")] for line in code.split("\n")[1:-1])
    return "\n".join(unescape(line, signs) for line in lines)


FORMATS: tuple[Codec, ...] = (
    Codec("json", _FAMILY, "a JSON object", _to_json, _from_json, 10),
    Codec("code", _FAMILY, "a Python generator", _to_code, _from_code, 16),
    Codec("table", _FAMILY, "a Markdown table", _to_table, _from_table, 16),
    Codec("verse", _FAMILY, "free verse", _to_verse, _from_verse, 2, exact=_verse_keeps),
    Codec("log", _FAMILY, "log lines", _to_log, _from_log, 48),
    Codec("xml", _FAMILY, "XML", _to_xml, _from_xml, 10),
)
