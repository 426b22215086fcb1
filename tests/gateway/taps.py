"""Probes that count, fail or hang."""

import threading

from lockgate.classifiers import ProbeTap


class CountingTap(ProbeTap):
    """Counts the tokens it has scored."""

    rows = 0

    def begin(self, tokens):
        super().begin(tokens)
        self.rows += tokens


class BrokenTap(ProbeTap):
    """Fails while `broken` is set."""

    broken = False

    def see(self, layer, site, hidden):
        if self.broken:
            raise RuntimeError("the probe is broken")
        super().see(layer, site, hidden)


class StuckTap(ProbeTap):
    """Waits for `go` once `stuck` is set. `entered` says that it waits."""

    def __init__(self, heads, hidden_size):
        super().__init__(heads, hidden_size)
        self.stuck = threading.Event()
        self.go = threading.Event()
        self.entered = threading.Event()

    def begin(self, tokens):
        super().begin(tokens)
        if self.stuck.is_set():
            self.entered.set()
            assert self.go.wait(30)
