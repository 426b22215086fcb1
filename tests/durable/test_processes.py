"""Parts of some work, one process for each: either all finish, or all end."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Command

from lockgate.durable.processes import run_parts
from lockgate.errors import ConfigError, GuardError, LockgateError, MissingExtra

LOST = GuardError("a process ended by itself")
IMPORTED_IN = str(os.getpid())


def write(folder: Path, number: int) -> None:
    (folder / str(number)).write_text(str(os.getpid()))


def fail(folder: Path, number: int) -> None:
    write(folder, number)
    if number == 1:
        raise ConfigError("number one is not usable")
    time.sleep(600)


def fail_oddly(folder: Path, number: int) -> None:
    # An error that pickle can't carry: its class is made from other arguments than its message.
    raise MissingExtra("reports", "report")


def die(folder: Path, number: int) -> None:
    write(folder, number)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def tell_import(folder: Path, number: int) -> None:
    (folder / str(number)).write_text(IMPORTED_IN)


def kill_parent(folder: Path, number: int) -> None:
    write(folder, number)
    if number == 1:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def sleep(folder: Path, number: int) -> None:
    write(folder, number)
    time.sleep(600)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(folder: Path) -> list[int]:
    return [int(path.read_text() or 0) for path in folder.iterdir()]


def test_every_part_has_a_process_of_its_own(tmp_path) -> None:
    looks: list[int] = []
    parts = [(tmp_path, number) for number in range(3)]
    run_parts(write, parts, lost=LOST, watch=lambda: looks.append(len(pids(tmp_path))))
    assert len(set(pids(tmp_path))) == 3
    assert os.getpid() not in pids(tmp_path)
    assert looks[-1] == 3


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (fail, ConfigError, "number one is not usable"),
        (fail_oddly, LockgateError, r"lockgate\[report\]"),
        (die, GuardError, "a process ended by itself"),
    ],
)
def test_what_ends_one_ends_all(tmp_path, work, error, words) -> None:
    with pytest.raises(error, match=words):
        run_parts(work, [(tmp_path, number) for number in range(2)], lost=LOST)
    assert not any(is_running(pid) for pid in pids(tmp_path))


def test_what_the_work_needs_is_imported_once(tmp_path) -> None:
    """Workers of one call share an import. Every call imports anew, in a fresh process."""
    for call in ("first", "second"):
        (tmp_path / call).mkdir()
        run_parts(tell_import, [(tmp_path / call, number) for number in range(3)], lost=LOST)
    first, second = (
        {path.read_text() for path in (tmp_path / call).iterdir()} for call in ("first", "second")
    )
    assert len(first) == len(second) == 1
    assert len({IMPORTED_IN, *first, *second}) == 3


def test_a_lost_process_that_starts_the_others_is_an_error(tmp_path) -> None:
    with pytest.raises(GuardError, match="a process ended by itself"):
        run_parts(kill_parent, [(tmp_path, number) for number in range(2)], lost=LOST)
    # Its children are the kernel's to kill and to bury.
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in pids(tmp_path)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_error_says_where_it_was_raised(tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_parts(fail, [(tmp_path, 1)], lost=LOST)
    assert "in fail" in caught.value.__notes__[0]


def test_an_interrupt_ends_all(tmp_path) -> None:
    def look() -> None:
        if len(pids(tmp_path)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parts(sleep, [(tmp_path, number) for number in range(2)], lost=LOST, watch=look)
    assert not any(is_running(pid) for pid in pids(tmp_path))


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from lockgate.durable import processes as _processes
from lockgate.durable.processes import run_parts
from test_processes import LOST, sleep

def work(folder, number):
    sleep(folder, number)

if __name__ == "__main__":
    run_parts(work, [(Path("out"), number) for number in range(2)], lost=LOST)
"""
# Without the kernel's help, as on other systems.
WATCHED = "import lockgate.durable.processes as own\nown.sys = type('System', (), {'platform': 'other'})\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("kernel", [True, False])
def test_workers_die_with_their_parent(tmp_path, kernel) -> None:
    (tmp_path / "out").mkdir()
    script = PARENT.format(here=str(Path(__file__).parent))
    (tmp_path / "parent.py").write_text(script if kernel else WATCHED + script)
    command = Command("parent.py", cwd=tmp_path)
    try:
        command.wait_for_files(tmp_path / "out", "*", 2)
        assert len(command.alive()) >= 3
        command.send(signal.SIGKILL)
        assert command.process.wait(30) == -signal.SIGKILL
        command.assert_nothing_left()
    finally:
        command.close()


ATTENDS = """
import subprocess, time
from lockgate.durable.processes import attended
child = subprocess.Popen([*attended("sleeper"), "600"])
time.sleep(600)
"""
SLEEPER = """
import os, sys, time
from pathlib import Path
Path("nice").write_text(f"{os.nice(0)} {__name__} {sys.argv[1]}")
time.sleep(float(sys.argv[1]))
"""


def test_a_module_that_is_attended_ends_with_its_parent(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "attends.py").write_text(ATTENDS)
    command = Command(tmp_path / "attends.py", cwd=tmp_path)
    try:
        command.wait_for_files(tmp_path, "nice", 1)
        command.wait_until(lambda: (tmp_path / "nice").read_text() != "")
        nice, name, argument = (tmp_path / "nice").read_text().split()
        assert (name, argument) == ("__main__", "600")
        assert int(nice) >= 10
        os.kill(command.process.pid, signal.SIGKILL)
        command.assert_nothing_left()
    finally:
        command.close()
