"""Processes for the parts of a job. None of them outlives the process that started it."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from lockgate.errors import LockgateError

__all__ = ["attended", "end_with", "end_with_parent", "run_parts"]

_LOOK_SECONDS = 2.0
_END_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


class _Worker(NamedTuple):
    process: BaseProcess
    outcome: Connection


def run_parts(
    work: Callable[..., None],
    parts: Sequence[tuple[Any, ...]],
    *,
    lost: LockgateError,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Call `work(*part)` for every part, each in a process of its own, and wait for all of them.

    An error that `work` raises is raised here. No process is left when this call ends, also if it is
    interrupted or this process is killed.

    Args:
        work: a function on module level. It leaves its result on disk.
        parts: arguments of each call. They can be pickled.
        lost: the error to raise if a process ends without a result, for example because it was killed for its
            memory.
        watch: called every two seconds, and at the end.
    """
    jobs = [(_pickled((work, part)),) for part in parts]
    if sys.platform == "linux" and len(jobs) > 1:
        _run("spawn", _fork, [(_pickled((work, lost)), jobs)], lost, watch)
    else:
        _run("spawn", _begin, jobs, lost, watch)


def _pickled(what: object) -> bytes:
    # Here, not by `multiprocessing`: a process watches its parent before it imports what `work` needs.
    return bytes(ForkingPickler.dumps(what))


def _run(
    method: str,
    target: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    lost: LockgateError,
    watch: Callable[[], None],
) -> None:
    """Call `target(*call, outcome)` for every call, each in a process of its own, and wait for all."""
    context: Any = multiprocessing.get_context(method)
    workers: list[_Worker] = []
    try:
        for call in calls:
            receiver, sender = context.Pipe(duplex=False)
            # A daemon may not start processes.
            process = context.Process(target=target, args=(*call, sender), daemon=target is _begin)
            workers.append(_Worker(process, receiver))
            try:
                process.start()
            except BrokenPipeError:
                raise lost from None
            sender.close()
        _wait_for(workers, lost, watch)
    except BaseException:
        for worker in workers:
            if worker.process.pid is not None:
                worker.process.terminate()
        raise
    finally:
        _join([worker.process for worker in workers if worker.process.pid is not None])


def _wait_for(workers: Sequence[_Worker], lost: LockgateError, watch: Callable[[], None]) -> None:
    pending = [worker.outcome for worker in workers]
    while pending:
        for outcome in wait(pending, timeout=_LOOK_SECONDS):
            if not isinstance(outcome, Connection):
                continue
            try:
                error = outcome.recv()
            except EOFError as end:
                raise lost from end
            if error is not None:
                raise error
            pending.remove(outcome)
        watch()


def _join(processes: Sequence[BaseProcess]) -> None:
    """Wait for processes that have finished or were told to end. Kill the others after a few seconds."""
    until = time.monotonic() + _END_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _begin(job: bytes, outcome: Connection) -> None:
    """Run the work in a worker. It ends with its parent, and leaves Ctrl-C to the parent."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.enable()

    def run() -> None:
        work, part = ForkingPickler.loads(job)
        work(*part)

    _tell(outcome, run)


def _fork(shared: bytes, jobs: Sequence[tuple[bytes]], outcome: Connection) -> None:
    """Import what the work needs, once, and do every job in a fork of this process.

    Forks are safe here: this process is fresh, runs one thread of Python, and has computed nothing, so that
    no pool of threads and no device is in use.
    """
    _ask_kernel()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This process makes no garbage. A collection in a fork would copy the memory that the forks share.
    gc.disable()

    def run() -> None:
        _, lost = ForkingPickler.loads(shared)

        def leave(*_: object) -> None:
            raise lost

        def look() -> None:
            # In case the kernel did not do what it was asked.
            if _is_orphan():
                leave()

        signal.signal(signal.SIGTERM, leave)
        gc.freeze()
        _run("fork", _begin, jobs, lost, look)

    _tell(outcome, run)


def _tell(outcome: Connection, run: Callable[[], None]) -> None:
    """Send the error that ends a process's work, or None."""
    error: BaseException | None = None
    try:
        run()
    except BaseException as raised:
        error = _portable(raised)
    outcome.send(error)
    # Freeing all modules one by one takes longer than a short job.
    gc.freeze()


def _portable(error: BaseException) -> BaseException:
    """Make an error that can be sent to another process, with the place where it was raised as a note."""
    try:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        kind = LockgateError if isinstance(error, LockgateError) else RuntimeError
        return kind(str(error) or type(error).__name__)
    return error


def attended(module: str) -> list[str]:
    """Return a command that runs a module as `python -m` does, and ends when this process does.

    On Linux it also ends with the thread that starts it. It gives way to other processes.
    """
    return [sys.executable, "-m", "lockgate.durable._attended", str(os.getpid()), module]


def end_with(parent: int) -> None:
    """Make this process end as soon as its parent does, which has this id."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # In case the kernel did not do what it was asked, or was asked too late.
    threading.Thread(target=look, daemon=True).start()


def end_with_parent() -> None:
    """Make this process end as soon as its parent does. `multiprocessing` has started this process.

    On Linux the kernel kills it. On other systems, or if the kernel refuses, a thread waits for the end of a
    pipe that the parent holds open.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        _ask_kernel()
    threading.Thread(target=_wait_for_end, args=(parent.sentinel,), daemon=True).start()


def _ask_kernel() -> None:
    """Have the kernel kill this process when its parent ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # The parent may have ended before the kernel was asked.
    if _is_orphan():
        os._exit(1)


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


def _wait_for_end(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
