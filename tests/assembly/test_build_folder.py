"""A build's folder knows how much time each result took."""

from collections.abc import Iterator
from itertools import accumulate, count
from pathlib import Path

import pytest

from lockgate.assembly._folder import BuildFolder


def folder_at(path: Path, *steps: float) -> BuildFolder:
    """A folder whose clock goes on by these seconds from one look to the next."""
    times: Iterator[float] = accumulate((0.0, *steps))
    return BuildFolder(path, clock=lambda: next(times))


def nothing() -> dict[str, int]:
    return {}


def test_only_steps_that_the_run_asked_for_count(tmp_path) -> None:
    first = folder_at(tmp_path, 5, 10, 7)
    first.step("write", {"plan": 1}, [], nothing)
    first.step("score-of-before", {}, [], nothing)
    assert first.seconds() == {"write": 5.0, "score-of-before": 7.0}
    # It rests on the same writing, and on no such scores.
    second = folder_at(tmp_path, 3)
    second.step("write", {"plan": 1}, [], nothing)
    second.step("train", {}, [], nothing)
    assert second.seconds() == {"write": 5.0, "train": 3.0}
    # Another plan: the time of the abandoned writing is no part of it.
    third = folder_at(tmp_path, 2)
    third.step("write", {"plan": 2}, [], nothing)
    assert third.seconds() == {"write": 2.0}
    assert third.lost_attempts() == {}


def test_attempts_that_were_stopped_count(tmp_path) -> None:
    def stop() -> dict[str, int]:
        raise KeyboardInterrupt

    for spent in (20, 30):
        with pytest.raises(KeyboardInterrupt):
            folder_at(tmp_path, spent).step("write", {"plan": 1}, [], stop)
    again = folder_at(tmp_path, 4)
    again.step("write", {"plan": 1}, [], nothing)
    assert again.seconds() == {"write": 54.0}
    assert again.lost_attempts() == {}
    assert {path.name for path in (tmp_path / "steps").iterdir()} == {"write.json"}
    with pytest.raises(KeyboardInterrupt):
        folder_at(tmp_path, 20).step("write", {"plan": 2}, [], stop)
    other = folder_at(tmp_path, 1)
    other.step("write", {"plan": 3}, [], nothing)
    assert other.seconds() == {"write": 1.0}


def test_attempts_of_killed_processes_are_counted_without_their_time(tmp_path) -> None:
    notes: list[bytes] = []

    def look() -> dict[str, int]:
        notes.append((tmp_path / "steps" / "write.attempt").read_bytes())
        return {}

    folder_at(tmp_path, 9).step("write", {"plan": 1}, [], look)
    for lost in count(1):
        # What a killed process leaves: the note, and no mark.
        (tmp_path / "steps" / "write.json").unlink()
        (tmp_path / "steps" / "write.attempt").write_bytes(notes[-1])
        again = folder_at(tmp_path, 4)
        again.step("write", {"plan": 1}, [], look)
        assert (again.seconds(), again.lost_attempts()) == ({"write": 4.0}, {"write": lost})
        if lost == 2:
            break
