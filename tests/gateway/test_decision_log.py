"""The decision log is private and append-only, and a failure to write is reported."""

import json

import pytest

from lockgate.errors import ConfigError
from lockgate.gateway import Decision, DecisionLog, Scores
from lockgate.gateway._decisions import timestamp


def decision(number=0):
    return Decision(
        id=f"chatcmpl-{number}",
        choice=0,
        time=timestamp(),
        mode="enforce",
        guard="00",
        decision="pass",
        enforced=False,
        finish_reason="stop",
        category=None,
        token_index=None,
        scores=Scores(None, 1.5, 3.0),
        prompt_tokens=3,
        completion_tokens=4,
        queue_ms=0.1,
        first_token_ms=None,
        total_ms=2.0,
    )


def test_lines_are_appended_to_a_private_file(tmp_path):
    path = tmp_path / "new" / "decisions.jsonl"
    for number in range(2):
        log = DecisionLog(path)
        log.write(decision(number))
        log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["chatcmpl-0", "chatcmpl-1"]
    assert lines[0]["scores"] == {"max_prompt": None, "max_answer": 1.5, "threshold": 3.0}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failure_is_seen_and_its_lines_follow(tmp_path, capsys):
    path = tmp_path / "decisions.jsonl"
    path.mkdir()
    log = DecisionLog(path)
    log.write(decision(0))
    log.write(decision(1))
    assert log.failure is not None
    assert log.unwritten == 2
    assert capsys.readouterr().err.count("decision log") == 1
    path.rmdir()
    log.write(decision(2))
    assert (log.failure, log.unwritten, log.written) == (None, 0, 3)
    log.close()
    assert [json.loads(line)["id"][-1] for line in path.read_text().splitlines()] == ["0", "1", "2"]


def test_a_full_disk_is_a_failure():
    log = DecisionLog(path=__import__("pathlib").Path("/dev/full"))
    log.write(decision())
    assert log.failure == "No space left on device"
    assert log.unwritten == 1


def test_a_gateway_does_not_start_with_a_bad_path(make_gateway, backbone, tmp_path):
    with pytest.raises(ConfigError, match="--decisions"):
        make_gateway(backbone, None, decisions=tmp_path).start()


def numbers_in(path):
    return [int(json.loads(line)["id"].rpartition("-")[2]) for line in path.read_text().splitlines()]


def test_a_log_that_was_rotated_goes_on_in_a_new_file(tmp_path):
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    log.open()
    for number in range(6):
        if number % 2 == 0:
            path.rename(tmp_path / f"decisions.{number}")
        log.write(decision(number))
        assert log.failure is None
    log.close()
    kept = [numbers_in(tmp_path / name) for name in ("decisions.2", "decisions.4", "decisions.jsonl")]
    assert kept == [[0, 1], [2, 3], [4, 5]]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_removed_or_replaced_goes_on_at_its_path(tmp_path):
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    log.write(decision(0))
    path.unlink()
    log.write(decision(1))
    assert numbers_in(path) == [1]
    (tmp_path / "other").touch()
    (tmp_path / "other").replace(path)
    log.write(decision(2))
    assert numbers_in(path) == [2]
    # Cut in place, as some rotations do.
    path.write_bytes(b"")
    log.write(decision(3))
    assert numbers_in(path) == [3]


def test_reopening_makes_the_new_file_at_once(tmp_path, capsys):
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    log.write(decision(0))
    path.rename(tmp_path / "old")
    log.reopen()
    assert path.read_bytes() == b""
    path.unlink()
    path.mkdir()
    log.reopen()
    assert "can't be opened again" in capsys.readouterr().err
    log.write(decision(1))
    assert log.unwritten == 1
    path.rmdir()
    log.write(decision(2))
    assert numbers_in(path) == [1, 2]
