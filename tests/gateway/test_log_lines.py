"""The lines of a server on standard error: one for each record, without what users send."""

import json
import logging
import re
import signal
import socket

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Command

from lockgate.cli import main
from lockgate.gateway import set_up_logs
from lockgate.gateway._logs import FIELDS, JsonLines, TextLines

SECRET = "purple-otter"  # noqa: S105 - what a client sends in every place that it has


def record_of(message, **more):
    made = logging.LogRecord("lockgate.test", logging.WARNING, "file.py", 1, "%s", (message,), None)
    for name, value in more.items():
        setattr(made, name, value)
    return made


@given(st.text())
def test_any_message_is_one_printable_line(message):
    for line in (TextLines().format(record_of(message)), JsonLines().format(record_of(message))):
        assert line.isprintable()
    found = json.loads(JsonLines().format(record_of(message)))
    printable = "".join(mark if mark.isprintable() else " " for mark in message)
    assert found["message"].split() == printable.split()


def test_an_object_has_the_time_the_level_the_logger_and_the_fields():
    found = json.loads(JsonLines().format(record_of("gone", **{FIELDS: {"status": 404}})))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {"level": "warning", "logger": "lockgate.test", "message": "gone", "status": 404}


@pytest.mark.parametrize("form", [TextLines, JsonLines])
def test_an_exception_tells_its_type_and_places_and_not_its_message(form):
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        line = form().format(record_of("failed", exc_info=(type(error), error, error.__traceback__)))
    assert SECRET not in line
    assert "ValueError < " in line
    assert "test_log_lines.py" in line


@pytest.fixture
def loggers():
    root, own = logging.getLogger(), logging.getLogger("lockgate")
    before = list(root.handlers), root.level, own.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def test_all_loggers_write_in_the_form_that_was_set_up_last(loggers, capsys):
    for form in ("text", "json"):
        set_up_logs(form)
        logging.getLogger("lockgate.serve").info("begun")
        logging.getLogger("another.package").warning("odd\nrequest")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["lockgate: begun", "lockgate: odd request"]
    assert [json.loads(line)["message"] for line in lines[2:]] == ["begun", "odd request"]


def test_a_served_process_writes_objects_and_nothing_of_what_clients_send(folders, preloaded, tmp_path):
    config = tmp_path / "lockgate.yaml"
    listen = "listen: {log_format: json, port: 0}"
    config.write_text(f"guard: {folders / 'guard'}\nbackbone: {folders / 'model'}\n{listen}\nthreads: 1\n")
    words = ("serve", "--config", config, "--decisions", tmp_path / "decisions.db")
    command = Command("lockgate", *words, cwd=tmp_path, preloaded=preloaded)
    try:
        url = re.search(r"http://127\.0\.0\.1:(\d+)", command.first_line())
        headers = {"x-request-id": "known", "user-agent": SECRET, "cookie": SECRET}
        with httpx2.Client(base_url=url[0], timeout=30) as client:
            client.get(f"/{SECRET}?q={SECRET}", headers=headers)
            client.post("/v1/chat/completions", json={"messages": SECRET}, headers=headers)
        with socket.create_connection(("127.0.0.1", int(url[1])), timeout=30) as raw:
            raw.sendall(f"GET /{SECRET}\x1b[31m HTTP/9.9\r\n\r\n".encode())
            raw.recv(1000)
        config.write_text(config.read_text() + "no_such_key: 1\n")
        command.send(signal.SIGHUP)
        command.wait_until(lambda: "nothing has changed" in command.errors.read_text())
        command.send(signal.SIGTERM)
        command.process.wait(60)
    finally:
        command.close()
    text = command.errors.read_text()
    assert SECRET not in text
    found = [json.loads(line) for line in text.splitlines()]
    access = [row for row in found if row["logger"] == "lockgate.access"]
    assert {"known"} <= {row.get("request_id") for row in access}
    assert {row["status"] for row in access} >= {400, 404}
    assert all(row["duration_ms"] >= 0 for row in access if "duration_ms" in row)


def test_a_server_that_can_not_start_says_so_in_the_same_form(capsys, loggers):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--guard", "no such guard", "--log-format", "json", "--port", "0"])
    assert ended.value.code == 2
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert found[-1]["level"] == "critical"
    assert "no such guard" in found[-1]["message"]


def test_an_unknown_form_is_refused(capsys, loggers):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--log-format", "xml"])
    assert ended.value.code == 2
    assert "log_format: expected one of text, json" in capsys.readouterr().err
