"""Run a module as `python -m` does, as long as another process lives. `processes.attended` starts it."""

import contextlib
import os
import runpy
import sys

from lockgate.durable.processes import end_with

# Whoever attends it has more urgent work.
_NICE = 10


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    end_with(parent)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
