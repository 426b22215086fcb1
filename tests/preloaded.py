"""Start commands as forks of a process that has imported what they need.

Imports take most of the time of a short command. A fork is a process like any other: it has its own session,
takes signals and ends with an exit code. It reads requests as lines of JSON and answers each with a line:
{"start": ...} with a process id, {"poll": process id} with the exit code, or null while the process runs.
"""

import gc
import json
import os
import runpy
import signal
import sys
from importlib import import_module
from typing import Any

# Also what the package imports only where it is used.
IMPORTS = (
    "httpx2",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "peft",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "sklearn.svm",
    "transformers.models.llama.modeling_llama",
    "uvicorn",
    "lockgate.assembly",
    "lockgate.cli",
    "lockgate.gateway",
    "lockgate.synthesis.factory",
    "lockgate.traffic",
    "lockgate.training",
)


def load_all() -> None:
    for name in IMPORTS:
        import_module(name)
    # Forks share this memory as long as no collection writes to it.
    gc.freeze()


def serve() -> dict[str, Any] | None:
    """Answer requests. Return what to start in the fork, or None at the end of the input."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                own: dict[str, Any] = request["start"]
                return own
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return None


def become(command: dict[str, Any]) -> None:
    """Take the place of `python -m MODULE ARGUMENTS` in a session of its own."""
    os.setsid()
    # Whoever starts the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(command["environment"])
    os.chdir(command["cwd"])
    output, errors = (
        os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("output", "errors")
    )
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
    sys.argv = command["arguments"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    load_all()
    wanted = serve()
    if wanted is not None:
        become(wanted)
