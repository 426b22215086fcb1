"""Folders of work: who may lock them, and what remains if a replacement is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.durable import (
    Mark,
    atomic_folder,
    atomic_path,
    hash_path,
    hold_folder,
    lock_folder,
    open_atomic,
    replace_folder,
    restore_folder,
    scratch_folder,
)
from lockgate.errors import ConfigError, GuardError

BUSY = GuardError("somebody works here")


def in_child(work: Callable[[], None]) -> int:
    """Run something in a process of its own and give its status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave_unfinished(path: Path, owner: str, key: object = None, name: str = "work") -> None:
    def stop() -> None:
        with scratch_folder(path, owner, key=key) as folder:
            (folder / name).write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path) -> None:
    def take() -> None:
        with lock_folder(tmp_path / "a", BUSY):
            pass

    with lock_folder(tmp_path / "a", BUSY):
        assert in_child(take) == 1
        with pytest.raises(GuardError, match="somebody works here"):
            take()
    assert in_child(take) == 0


def test_the_lock_of_a_killed_process_is_free(tmp_path) -> None:
    def die() -> None:
        with lock_folder(tmp_path, BUSY):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    with lock_folder(tmp_path, BUSY):
        pass


def test_scratch_goes_with_success_and_stays_with_failure(tmp_path) -> None:
    leave_unfinished(tmp_path / "a", "one")
    with scratch_folder(tmp_path / "a", "one") as folder:
        assert (folder / "work").read_text() == "x"
        with pytest.raises(ConfigError, match="another run works"), scratch_folder(folder, "one"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_another_key_is_not_taken_over(tmp_path) -> None:
    leave_unfinished(tmp_path / "a", "one", {"input": 1})
    leave_unfinished(tmp_path / "a", "one", {"input": 1}, "more")
    assert (tmp_path / "a" / "work").exists()
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "file").touch()
    with scratch_folder(tmp_path / "a", "one", key={"input": 2}) as folder:
        assert {entry.name for entry in folder.iterdir()} == {".lock", ".lockgate"}


def test_nobody_claims_what_holds_other_files(tmp_path) -> None:
    leave_unfinished(tmp_path / "a", "one")
    with (
        pytest.raises(ConfigError, match="holds other files, and two would remove them"),
        scratch_folder(tmp_path / "a", "two"),
    ):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("mine", "file", "link"):
        with pytest.raises(ConfigError, match="move"), scratch_folder(tmp_path / name, "one"):
            pass
    assert (tmp_path / "mine" / "notes").exists()
    assert not (tmp_path / "mine" / ".lock").exists()
    assert (tmp_path / "a" / "work").exists()


# Runs `scratch_folder` or `replace_folder` and ends at the n-th change of the folders, as if killed there.
DYING = """
import os, sys
from pathlib import Path
from lockgate.durable import replace_folder, scratch_folder
what, folder, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
seen = 0
def hear(event, _):
    global seen
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
        seen += 1
        if seen == last:
            os._exit(9)
sys.addaudithook(hear)
if what == "replace":
    replace_folder(folder / "made", folder / "guard")
else:
    with scratch_folder(folder / "work", "one", key=what) as work:
        (work / "sub").mkdir()
        (work / "sub" / "a").touch()
        (work / "b").touch()
"""


def die_at(what: str, folder: Path, last: int) -> bool:
    """Whether it came to its end before the moment."""
    done = subprocess.run([sys.executable, "-c", DYING, what, str(folder), str(last)], check=False)
    assert done.returncode in (0, 9)
    return done.returncode == 0


def test_a_replacement_killed_anywhere_leaves_the_old_or_the_new(tmp_path) -> None:
    for last in range(1, 20):
        case = tmp_path / str(last)
        for name in ("made", "guard"):
            (case / name).mkdir(parents=True)
            (case / name / "file").write_text(name)
        finished = die_at("replace", case, last)
        restore_folder(case / "guard")
        assert (case / "guard" / "file").read_text() in ("made", "guard")
        (case / "again").mkdir()
        replace_folder(case / "again", case / "guard")
        assert {entry.name for entry in case.iterdir()} <= {"guard", "made"}
        assert not any((case / "guard").iterdir())
        if finished:
            break
    assert last > 3


def test_scratch_killed_anywhere_is_claimed_again(tmp_path) -> None:
    for last in range(1, 30):
        case = tmp_path / str(last)
        case.mkdir()
        leave_unfinished(case / "work", "one", "earlier")
        finished = die_at("later", case, last)
        with scratch_folder(case / "work", "one", key="later") as folder:
            assert not (folder / "work").exists()
        assert list(case.iterdir()) == []
        if finished:
            break
    assert last > 5


def test_a_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as part:
            (part / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "a") as part:
            assert text == "one" or (tmp_path / "a" / "file").read_text() == "one"
            (part / "file").write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").read_text() == "two"


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path) -> None:
    (tmp_path / "guard").write_text("mine")
    (tmp_path / "made").mkdir()
    with pytest.raises(OSError, match="guard"):
        replace_folder(tmp_path / "made", tmp_path / "guard")
    assert (tmp_path / "guard").read_text() == "mine"


def test_a_path_is_replaced_when_the_block_ends(tmp_path) -> None:
    place = tmp_path / "state"
    place.write_text("old")

    def fail() -> None:
        with atomic_path(place) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert place.read_text() == "old"
    with atomic_path(place) as part:
        part.write_text("new")
    assert place.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(key=json_values, content=st.dictionaries(st.text(), json_values))
def test_a_mark_says_what_was_written(tmp_path_factory, key, content) -> None:
    path = tmp_path_factory.mktemp("mark") / "done.json"
    Mark(key, {}, content, {"seconds": 1.5}).write(path)
    assert Mark.read(path) == Mark(key, {}, content, {"seconds": 1.5})


def test_a_mark_stands_while_its_files_do(tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("file", "deep/file"):
        with open_atomic(tmp_path / name) as file:
            file.write(b"a")
    mark = Mark(1, {name: hash_path(tmp_path / name) for name in ("file", "deep", "none")})
    assert mark.stands(tmp_path)
    (tmp_path / "deep" / "more").touch()
    assert not mark.stands(tmp_path)
    (tmp_path / "deep" / "more").unlink()
    assert mark.stands(tmp_path)
    (tmp_path / "none").touch()
    assert not mark.stands(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"key": 1}', '{"key": 1, "files": 2, "content": {}}'])
def test_what_is_no_mark_says_nothing(tmp_path, text) -> None:
    assert Mark.read(tmp_path / "none") is None
    (tmp_path / "mark").write_text(text)
    assert Mark.read(tmp_path / "mark") is None


def test_a_held_folder_keeps_others_out_and_holds_nothing_new(tmp_path) -> None:
    def take() -> None:
        with hold_folder(tmp_path, BUSY):
            pass

    def take_and_die() -> None:
        with hold_folder(tmp_path, BUSY):
            os.kill(os.getpid(), signal.SIGKILL)

    with hold_folder(tmp_path, BUSY):
        assert in_child(take) == 1
        with pytest.raises(GuardError, match="somebody works here"):
            take()
        assert list(tmp_path.iterdir()) == []
    assert in_child(take_and_die) == -signal.SIGKILL
    assert in_child(take) == 0
    with pytest.raises(ConfigError, match="No such file"), hold_folder(tmp_path / "gone", BUSY):
        pass
