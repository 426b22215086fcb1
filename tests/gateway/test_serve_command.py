"""`lockgate serve` as a process: the ready line, exposure, ports, shutdown."""

import re
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import httpx2
import psycopg
import pytest
from logs import checked, decisions_in
from processes import Command
from served import options, serving
from serving import CHAT, ask
from staging import until

from lockgate.cli import main
from lockgate.errors import ConfigError
from lockgate.gateway import bind, check_exposure, is_loopback

EVERYWHERE = "0.0.0.0"  # noqa: S104 - that it is refused is what is tested


def test_it_says_when_it_is_ready_and_drains_at_sigterm(folders, preloaded):
    guard = folders / "guard"
    with serving(preloaded, folders, "--port", "0", "--mode", "shadow") as (process, line):
        ready = re.fullmatch(
            r"Lockgate is ready: (http://127\.0\.0\.1:\d+) \((.*?), mode shadow(.*)\)\n", line
        )
        assert ready is not None
        assert ready[2] == f"guard {guard}"
        assert ready[3] == ", UNCALIBRATED: no false-refusal rate is claimed"
        with httpx2.Client(base_url=ready[1], timeout=30) as client:
            about = client.get("/readyz").json()
            assert client.get("/health").json()["calibrated"] is about["guard"]["calibrated"] is False
            assert about["guard"]["uncalibrated_because"]
            request = ask(max_tokens=40, stream=True)
            with client.stream("POST", CHAT, json=request) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        process.wait(timeout=30)
    line = decisions_in(folders / "decisions.db")[-1]
    assert (line["decision"], line["mode"]) == ("pass", "shadow")
    assert (
        line["guard"] == about["guard"]["sha256"] == sha256((guard / "guard.yaml").read_bytes()).hexdigest()
    )


def test_hangup_begins_a_new_database_if_the_old_one_was_moved(folders, preloaded):
    log, old = folders / "moved.db", folders / "moved.old"
    arguments = ("--port", "0", "--decisions", str(log), "--allowed-host", "chat.example.org")
    with serving(preloaded, folders, *arguments) as (process, line):
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        with httpx2.Client(base_url=url, timeout=30) as client:
            assert client.get("/v1/models", headers={"host": "chat.example.org"}).status_code == 200
            assert client.post(CHAT, json=ask(max_tokens=2)).status_code == 200
            log.rename(old)
            until(lambda: client.get("/readyz").status_code == 503)
            refused = client.post(CHAT, json=ask(max_tokens=2))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) > 0
            assert "moved or removed" in client.get("/readyz").json()["problems"][0]
            process.send_signal(signal.SIGHUP)
            until(lambda: client.get("/readyz").status_code == 200)
            assert client.post(CHAT, json=ask(max_tokens=2)).status_code == 200
        assert process.poll() is None
    assert [len(decisions_in(path)) for path in (old, log)] == [1, 1]
    checked(old)
    checked(log)


def test_a_hangup_before_the_server_is_ready_does_not_end_it(folders, preloaded):
    words = options(folders, "--threads", "1", "--port", "0", log=folders / "early.db")
    command = Command("lockgate", *words, cwd=folders, preloaded=preloaded)
    try:
        # The database is made after the signal is taken care of, and before the model is loaded.
        command.wait_until(lambda: (folders / "early.db").exists())
        command.send(signal.SIGHUP)
        assert command.first_line().startswith("Lockgate is ready")
    finally:
        command.close()


def test_hangup_with_open_requests_ends_none_of_them(folders, preloaded):
    log = folders / "hangup.db"
    with serving(preloaded, folders, "--port", "0", "--decisions", str(log)) as (process, line):
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]

        def answer(_: int) -> str:
            with httpx2.Client(base_url=url, timeout=60) as client:
                body = client.post(CHAT, json=ask(max_tokens=60)).json()
            return body["choices"][0]["finish_reason"]

        with ThreadPoolExecutor(12) as pool:
            running = [pool.submit(answer, number) for number in range(12)]
            with httpx2.Client(base_url=url, timeout=30) as client:
                until(lambda: client.get("/readyz").json()["streams"]["active"] > 0)
                process.send_signal(signal.SIGHUP)
            assert {one.result() for one in running} <= {"length", "stop"}
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert len(decisions_in(log)) == 12
    assert checked(log).unfinished == 0


@pytest.mark.slow
def test_what_is_not_written_at_the_end_waits_for_the_next_start(folders, preloaded):
    log = folders / "late.db"
    with serving(preloaded, folders, "--port", "0", "--decisions", str(log)) as (process, line):
        other = sqlite3.connect(log, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with httpx2.Client(base_url=line.split()[3], timeout=60) as client:
            assert client.post(CHAT, json=ask(max_tokens=2)).status_code == 200
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        other.execute("ROLLBACK")
        other.close()
    assert code != 2
    assert decisions_in(log) == []
    [left] = folders.glob("late.db.spill.*")
    with serving(preloaded, folders, "--port", "0", "--decisions", str(log)) as (process, line):
        assert len(decisions_in(log)) == 1
        assert not left.exists()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert checked(log).unfinished == 0


@pytest.mark.slow
def test_records_that_are_lost_make_the_exit_code(folders, preloaded, postgres, tmp_path):
    log = postgres.database()
    (tmp_path / "home").touch()
    command = Command(
        *("lockgate", *options(folders, "--threads", "1", "--port", "0", log=log)),
        cwd=tmp_path,
        preloaded=preloaded,
        variables={"LOCKGATE_HOME": str(tmp_path / "home")},
    )
    try:
        url = command.first_line().split()[3]
        with psycopg.connect(log) as other:
            other.execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
            with httpx2.Client(base_url=url, timeout=60) as client:
                assert client.post(CHAT, json=ask(max_tokens=2)).status_code == 200
            command.process.send_signal(signal.SIGTERM)
            assert command.process.wait(60) == 2
        said = command.errors.read_text()
        assert "1 decision(s) are not in the database; 1 are lost" in said
        assert "Traceback" not in said
    finally:
        command.close()


@pytest.mark.parametrize("bad", ["a folder", "no SQLite", "below a file", "a password"])
def test_a_log_that_can_not_be_written_is_one_error_before_the_model_loads(folders, capsys, tmp_path, bad):
    (tmp_path / "old.lines").write_text('{"decision": "pass"}\n' * 200)
    places = {
        "a folder": tmp_path,
        "no SQLite": tmp_path / "old.lines",
        "below a file": tmp_path / "old.lines" / "decisions.db",
        "a password": "postgresql://me:sesame@localhost/log",
    }
    with pytest.raises(SystemExit) as caught:
        # There is no such guard, so an error about the log has come first.
        main(["serve", "--guard", str(tmp_path / "none"), "--port", "0", "--decisions", str(places[bad])])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("error: decision log")
    assert (error.count("\n"), "sesame" in error) == (1, False)


def test_a_port_in_use_is_said_clearly(folders, capsys):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as caught:
            main(options(folders, "--port", port))
    assert caught.value.code == 2
    assert f"port {port} is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", EVERYWHERE), "--api-key-file"),
        (("--mode", "maybe"), "expected one of enforce, shadow, off"),
        (("--api-key-file", "/nonexistent/key"), "not readable"),
        (("--block-input-status", "500"), "expected 200 or 400"),
        (("--guard", "/nonexistent/guard", "--port", "0"), "no such guard"),
        (("--moderation-name", "weapons"), "expected CATEGORY=NAME"),
        (("--moderation-name", "weapons=a", "--moderation-name", "weapons=b"), "has a name already"),
        (("--moderation-name", "nothing=illicit", "--port", "0"), "the guard has no such category; it has"),
        (("--metrics-key-env", "NO_SUCH_KEY", "--port", "0"), "variable NO_SUCH_KEY is not set"),
        (("--hold-tokens", "8", "--port", "0"), "only answers of an upstream"),
        (("--engine", "other"), "expected one of lockgate, vllm"),
        (("--engine-arg", "seed=1"), "only --engine vllm takes arguments"),
        (("--engine", "vllm", "--engine-arg", "seed"), "expected NAME=VALUE"),
        (("--engine", "vllm", "--mode", "off", "--port", "0"), "mode off"),
        (("--engine", "vllm", "--port", "0", "--guard", "/nonexistent/guard"), "lockgate[vllm]"),
    ],
)
def test_bad_options_are_usage_errors(folders, arguments, said, capsys, monkeypatch):
    monkeypatch.delenv("LOCKGATE_API_KEY", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(options(folders, *arguments))
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("[::1]", True),
        (EVERYWHERE, False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
    ],
)
def test_only_loopback_needs_no_key(host, local):
    assert is_loopback(host) == local
    check_exposure(host, has_key=True, insecure=False)
    check_exposure(host, has_key=False, insecure=True)
    if not local:
        with pytest.raises(ConfigError, match="--insecure"):
            check_exposure(host, has_key=False, insecure=False)


def test_an_address_that_is_not_ours_is_a_clear_error():
    with pytest.raises(ConfigError, match="can't listen"):
        bind("192.0.2.1", 0)
