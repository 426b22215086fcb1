"""Files with texts of attacks and answers: readable by their owner only, from their first byte on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lockgate.durable import open_atomic
from lockgate.synthesis import RequestCache

_MODE = 0o600


@contextmanager
def open_private(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends, for its owner only."""
    with open_atomic(path) as file:
        os.fchmod(file.fileno(), _MODE)
        yield file


def open_replies(path: Path) -> RequestCache:
    """Open the cache of replies, for its owner only. SQLite gives its side files the same mode.

    Raises:
        SynthesisError: as `RequestCache` does.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, _MODE))
    path.chmod(_MODE)
    return RequestCache(path)
