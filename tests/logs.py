"""Decision logs in tests: what they hold, and records for them."""

from pathlib import Path
from typing import Any

import msgspec

from lockgate.decisions import Decision, DecisionLog, LogOptions, Report, Scores, Started, open_log, timestamp


def decisions_in(where: Path | str) -> list[dict[str, Any]]:
    """The decisions of a log, as JSON has them, in the order of time."""
    with open_log(where) as log:
        return [stored.record for stored in log.records()]


def text_of_log(path: Path) -> str:
    """All bytes of a log's files, as text."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    return "".join(file.read_bytes().decode("latin-1") for file in files)


def checked(where: Path | str) -> Report:
    """The report of a log whose chains hold."""
    with open_log(where) as log:
        report = log.verify()
    assert report.ok, report.breaks
    return report


def opened_log(where: Path | str, **options: Any) -> DecisionLog:
    log = DecisionLog(LogOptions(where, **options))
    log.open()
    return log


def write_log(where: Path, decisions: list[Decision]) -> Path:
    """A log with these decisions."""
    log = opened_log(where)
    for decision in decisions:
        log.write(decision)
    assert log.close().unwritten == 0
    return where


def started(number: int = 0, choices: int = 1) -> Started:
    return Started(
        id=f"chatcmpl-{number}",
        time=timestamp(),
        mode="enforce",
        guard="00",
        choices=choices,
        prompt_tokens=3,
    )


def decision(number: int = 0, **fields: Any) -> Decision:
    usual: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "choice": 0,
        "time": timestamp(),
        "mode": "enforce",
        "guard": "00",
        "decision": "pass",
        "enforced": False,
        "finish_reason": "stop",
        "category": None,
        "token_index": None,
        "scores": Scores(None, 1.5, 3.0),
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "queue_ms": 0.1,
        "first_token_ms": None,
        "total_ms": 2.0,
    }
    return Decision(**{**usual, **fields})


def numbers_in(where: Path | str) -> list[int]:
    return [int(found["id"].rpartition("-")[2]) for found in decisions_in(where)]


def write_lines(path: Path, decisions: list[Decision]) -> Path:
    """A file of JSON lines, as `lockgate log export` makes it."""
    path.write_bytes(b"".join(msgspec.json.encode(decision) + b"\n" for decision in decisions))
    return path
