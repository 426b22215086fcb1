"""The decision log: private, append-only, and loud when it can't be written."""

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
