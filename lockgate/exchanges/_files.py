"""Byte streams under the readers and writers: compression by suffix, and lines of bounded length."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from lockgate.errors import ExchangeError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MAX_LINE_BYTES = 64 * 2**20

_READ_BYTES = 2**16
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
# A zstd block can grow 30,000-fold. Small feeds keep the output of each below 16 MiB.
_ZSTD_FEED_BYTES = 2**9
# The longest window that the format's tools write (`--long=31`). It takes memory only as it fills.
_ZSTD_WINDOW = 2**31
_LFS = b"version https://git-lfs.github.com/spec/"
_WIDE_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip


class Line(NamedTuple):
    """One line without its newline. `data` is None if the line is over the limit."""

    number: int
    data: bytes | None


def suffix_of(path: Path) -> str:
    """Return the entry of `SUFFIXES` that `path` ends with.

    Raises:
        ExchangeError: the name has another ending.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise ExchangeError(f"{path}: unknown kind of file; the name must end in one of {', '.join(SUFFIXES)}")


def refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, a small text in the place of a file that was not fetched.

    Raises:
        ExchangeError: the file is a pointer, or can't be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise ExchangeError(f"{path}: can't be read: {error.strerror}") from error
    if head == _LFS:
        raise ExchangeError(f"{path}: a Git LFS pointer and not the file itself; run `git lfs pull` there")


def read_lines(path: Path, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield the lines of a plain, gzip or zstd file. Memory is bounded by `max_bytes`.

    Raises:
        ExchangeError: the file can't be read, or its compressed stream is damaged or cut short. The error
            names the last whole line.
    """
    number = 0
    try:
        with path.open("rb") as file:
            chunks = _refuse_wide(path, _chunks(file, path.suffix.lower()))
            for line in _split(chunks, max_bytes):
                number = line.number
                yield line
    except _DAMAGE as error:
        raise ExchangeError(
            f"{path}:{number + 1}: the compressed stream is damaged or cut short after line {number} "
            f"({type(error).__name__}); fetch or write the file again"
        ) from error
    except OSError as error:
        raise ExchangeError(f"{path}: can't be read: {error.strerror}") from error


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a plain, gzip or zstd file in chunks. Memory does not grow with the file.

    Raises:
        ExchangeError: the file can't be read, or its compressed stream is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            yield from _refuse_wide(path, _chunks(file, path.suffix.lower()))
    except _DAMAGE as error:
        raise ExchangeError(
            f"{path}: the compressed stream is damaged or cut short ({type(error).__name__}); "
            "fetch or write the file again"
        ) from error
    except OSError as error:
        raise ExchangeError(f"{path}: can't be read: {error.strerror}") from error


def _refuse_wide(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Refuse a file in UTF-16 or UTF-32 as a whole, instead of reporting each line as broken."""
    first = next(chunks, b"")
    wide = next((name for mark, name in _WIDE_ENCODINGS if first.startswith(mark)), None)
    # Without a byte order mark: each ASCII letter has a zero byte beside it.
    zeros = tuple(byte == 0 for byte in first[:4])
    if wide is None and zeros in ((True, False, True, False), (False, True, False, True)):
        wide = "UTF-16"
    elif wide is None and zeros in ((False, True, True, True), (True, True, True, False)):
        wide = "UTF-32"
    if wide is not None:
        raise ExchangeError(f"{path}: the file is {wide}; save it as UTF-8")
    yield first
    yield from chunks


def _chunks(file: BinaryIO, suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _unpack_zstd(file)
        return
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            while chunk := unpacked.read(_READ_BYTES):
                yield chunk
        return
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _unpack_zstd(file: BinaryIO) -> Iterator[bytes]:
    # The library's stream reader accepts a file that is cut short. The frame object knows where it ends.
    frame = None
    while feed := file.read(_ZSTD_FEED_BYTES):
        while feed:
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
            if unpacked := frame.decompress(feed):
                yield unpacked
            feed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("the last zstd frame has no end")


def _split(chunks: Iterable[bytes], max_bytes: int) -> Iterator[Line]:
    pieces: list[bytes] = []
    held, number = 0, 1
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield Line(number, b"".join([*pieces, piece]) if held + len(piece) <= max_bytes else None)
            pieces, held = [], 0
            number += 1
        held += len(rest)
        if held > max_bytes:
            pieces = []
        elif rest:
            pieces.append(rest)
    if held:
        yield Line(number, b"".join(pieces) if held <= max_bytes else None)
