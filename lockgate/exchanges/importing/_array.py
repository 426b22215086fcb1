"""Items of one large JSON array, read without holding the array in memory."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from lockgate.errors import ExchangeError
from lockgate.exchanges._files import MAX_LINE_BYTES, read_chunks
from lockgate.exchanges._read import refuse_constant

_SPACE = " \t\r\n"


def array_items(
    path: Path, max_size: int = MAX_LINE_BYTES, *, rows: str | None = None
) -> Iterator[tuple[int, object]]:
    """Yield the items of an array by number, from 1. Memory is bounded by about twice `max_size` characters.

    Args:
        path: a file that holds one JSON document, perhaps compressed.
        max_size: characters that an item may have.
        rows: keys that lead to the array in the document, with dots between them. By default the document
            itself is the array.

    Raises:
        ExchangeError: the JSON is not valid, or there is no array at `rows`. Any fault ends the reading: an
            array has no next line to go on from.
    """
    window = _Window(path)
    if rows is not None:
        for number, key in enumerate(rows.split("."), 1):
            where = f"{path}: rows: {'.'.join(rows.split('.')[:number])}"
            _enter(window, key, where, max_size)
    if window.next_mark() != "[":
        raise ExchangeError(f"{path}: rows: {rows}: expected a list of rows there")
    window.at += 1
    mark, number = window.next_mark(), 0
    while mark != "]":
        number += 1
        yield number, _item(window, f"{path}:{number}", max_size)
        mark = window.next_mark()
        if mark == ",":
            window.at += 1
            window.next_mark()
        elif mark != "]":
            raise ExchangeError(
                f"{path}:{number}: expected `,` or `]` after this record; the file is damaged or cut short"
            )


class _Window:
    """The part of the text that is in memory, and the reading position in it."""

    def __init__(self, path: Path) -> None:
        # Damaged bytes become lone surrogates, which the checks of a row refuse.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self._chunks = read_chunks(path)
        self.text, self.at, self.ended = "", 0, False

    def grow(self) -> None:
        """Read until the text in memory has doubled at least. So a long item is tried only a few times."""
        parts, size = [self.text[self.at :]], 0
        while not self.ended and size <= len(parts[0]):
            chunk = next(self._chunks, None)
            self.ended = chunk is None
            parts.append(self._decoder.decode(chunk or b"", final=self.ended))
            size += len(parts[-1])
        self.text, self.at = "".join(parts), 0

    def next_mark(self) -> str:
        """Return the next character that is not white space, without passing it. It is empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.grow()


def _enter(window: "_Window", key: str, where: str, max_size: int) -> None:
    """Move to the value of a key in the object that comes next. The values before it are skipped."""
    if window.next_mark() != "{":
        raise ExchangeError(f"{where}: expected an object that holds this key")
    window.at += 1
    while (mark := window.next_mark()) != "}":
        name = _item(window, where, max_size) if mark == '"' else None
        if name is None or window.next_mark() != ":":
            raise ExchangeError(f"{where}: not valid JSON before it; write the file again")
        window.at += 1
        window.next_mark()
        if name == key:
            return
        _item(window, where, max_size)
        if window.next_mark() == ",":
            window.at += 1
    raise ExchangeError(f"{where}: no such key; name the path to the list of rows")


_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def _item(window: _Window, where: str, max_size: int) -> object:
    while True:
        try:
            value, end = _DECODER.raw_decode(window.text, window.at)
        except RecursionError:
            raise ExchangeError(f"{where}: record: the JSON is nested too deep") from None
        except ValueError:
            if window.ended or len(window.text) - window.at > max_size:
                raise ExchangeError(
                    f"{where}: record: not valid JSON, cut short, or longer than {max_size >> 20} MiB; write "
                    "the file again, or as one object a line"
                ) from None
        else:
            # A number at the end of the text in memory may have more digits.
            if end < len(window.text) or window.ended:
                window.at = end
                return value
        window.grow()
