"""Keys from a person: single ones from a terminal, or lines from any other input."""

import os
import select
import sys
from types import TracebackType
from typing import Any, Self, TextIO

# The rest of a sequence, such as that of an arrow key, comes at once.
_SEQUENCE_SECONDS = 0.02


class Keys:
    """The keys that a person presses. From a terminal they count at once, otherwise each is a line.

    Use it in a `with` block: it gives the terminal back as it was.

    Args:
        source: where keys come from. By default standard input.
    """

    def __init__(self, source: TextIO | None = None) -> None:
        self._source = sys.stdin if source is None else source
        self.from_terminal = self._source.isatty()
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if self.from_terminal:
            import termios

            self._before = termios.tcgetattr(self._source.fileno())
            self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(self._source.fileno(), termios.TCSADRAIN, self._before)

    def read(self) -> str | None:
        """Wait for a key and return it in lower case. Enter is "", and the end of the input is None.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        if self.from_terminal:
            return self._read_key()
        line = self._source.readline()
        return line.strip()[:1].lower() if line else None

    def _listen(self) -> None:
        """Have keys count at once and unseen. Ctrl-C and Ctrl-Z still send their signals."""
        import termios
        import tty

        # Draining keeps keys that were pressed early.
        tty.setcbreak(self._source.fileno(), termios.TCSADRAIN)

    def _read_key(self) -> str | None:
        file = self._source.fileno()
        # Each time, since a shell may have changed it while the command was stopped.
        self._listen()
        found = os.read(file, 1)
        if found == b"\x1b":
            while select.select([file], [], [], _SEQUENCE_SECONDS)[0] and os.read(file, 1):
                pass
        if found in (b"", b"\x04"):
            return None
        return "" if found in (b"\r", b"\n") else found.decode("utf-8", "replace").lower()
