"""Keys from a person: single ones from a terminal, or lines from any other input."""

import os
import select
import sys
from typing import TextIO

# The rest of a sequence, such as that of an arrow key, comes at once.
_SEQUENCE_SECONDS = 0.02


class Keys:
    """The keys that a person presses. From a terminal they count at once, otherwise each is a line.

    Args:
        source: where keys come from. By default standard input.
    """

    def __init__(self, source: TextIO | None = None) -> None:
        self._source = sys.stdin if source is None else source
        self.from_terminal = self._source.isatty()

    def read(self) -> str | None:
        """Wait for a key and return it in lower case. Enter is "", and the end of the input is None.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        if self.from_terminal:
            return self._read_key()
        line = self._source.readline()
        return line.strip()[:1].lower() if line else None

    def _read_key(self) -> str | None:
        import termios
        import tty

        file = self._source.fileno()
        before = termios.tcgetattr(file)
        # Draining keeps keys that were pressed early; Ctrl-C and Ctrl-Z still send their signals.
        tty.setcbreak(file, termios.TCSADRAIN)
        try:
            found = os.read(file, 1)
            if found == b"\x1b":
                while select.select([file], [], [], _SEQUENCE_SECONDS)[0] and os.read(file, 1):
                    pass
        finally:
            termios.tcsetattr(file, termios.TCSADRAIN, before)
        if found in (b"", b"\x04"):
            return None
        return "" if found in (b"\r", b"\n") else found.decode("utf-8", "replace").lower()
