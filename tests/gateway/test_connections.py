"""Connections over real sockets: slow ones, idle ones, too many of them, and bytes that are no HTTP."""

import contextlib
import json
import logging
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from live import Valve
from processes import Command
from served import options
from serving import CHAT, ask, scoring_for

from lockgate.errors import ConfigError
from lockgate.gateway import ConnectionLimits, _connections, bind, create_app
from lockgate.gateway._connections import Doorkeeper, SeldomLog, allowed_connections
from lockgate.gateway._server import make_server

QUICK = ConnectionLimits(head_seconds=0.6, rest_seconds=0.6, write_seconds=0.6)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@contextlib.contextmanager
def served(gateway, limits=QUICK):
    """The address of a server as `lockgate serve` runs it."""
    ready = threading.Event()
    server = make_server(
        create_app(gateway),
        ready=ready.set,
        drain_timeout=1,
        limits=limits,
        end_open=gateway.engine.end_open,
    )
    with bind("127.0.0.1", 0) as bound:
        address = bound.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            assert ready.wait(30)
            yield address
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextlib.contextmanager
def connected(address):
    with socket.create_connection(address, timeout=20) as client:
        yield client


def all_of(client):
    """All bytes until the server closes, and how long that took."""
    begun, parts = time.monotonic(), []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts), time.monotonic() - begun


def error_in(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.fixture
def gateway(make_gateway, backbone, head):
    return make_gateway(backbone, scoring_for(backbone, head))


def test_a_head_has_its_time_however_it_is_stretched(gateway):
    with served(gateway) as address, connected(address) as silent, connected(address) as slow:
        begun = time.monotonic()
        for byte in GET[:200]:
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - begun < 5
        assert all_of(silent)[0] == b""
        with contextlib.suppress(AssertionError, IndexError):  # the answer may be lost with a reset
            status, error = error_in(all_of(slow)[0])
            assert (status, error["code"]) == (408, "request_timeout")


def test_a_half_head_is_answered_in_the_error_shape(gateway):
    with served(gateway) as address, connected(address) as client:
        client.sendall(GET)
        answer, seconds = all_of(client)
    status, error = error_in(answer)
    assert (status, error["code"], error["type"]) == (408, "request_timeout", "invalid_request_error")
    assert seconds < 5


def test_a_second_request_has_its_time_too(gateway):
    with served(gateway) as address, connected(address) as client:
        client.sendall(GET + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /hea")
        assert error_in(all_of(client)[0])[0] == 408


def test_a_half_body_is_answered_and_dropped(gateway, monkeypatch):
    monkeypatch.setattr("lockgate.gateway._bodies.BODY_SECONDS", 0.5)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with served(gateway) as address, connected(address) as client:
        client.sendall(head.encode() + b'Content-Length: 100\r\n\r\n{"mess')
        answer, seconds = all_of(client)
    assert error_in(answer)[1]["code"] == "request_timeout"
    assert seconds < 8
    assert gateway.bodies.used == 0


def test_a_body_that_nobody_reads_can_not_go_on_for_ever(gateway):
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with served(gateway) as address, connected(address) as client:
        client.sendall(head)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(b"x" * 10)
                time.sleep(0.05)
        assert time.monotonic() - begun < 6


def test_a_client_that_reads_nothing_is_let_go(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    with served(gateway) as address, connected(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /static/playground.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        begun = time.monotonic()
        client.settimeout(0.5)
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 20:
                client.send(request * 50)
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: rot13\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_the_error_shape(gateway, request_bytes):
    with served(gateway) as address:
        with connected(address) as client:
            client.sendall(request_bytes)
            status, error = error_in(all_of(client)[0])
        assert status == 400
        assert set(error) == {"message", "type", "param", "code"}
        with httpx2.Client(base_url=f"http://127.0.0.1:{address[1]}") as other:
            assert other.get("/health").status_code == 200


@pytest.mark.parametrize(
    "target", [b"*", b"http://elsewhere/x", b"/%00", b"/%ff", b"//", b"/v1/models/%2e%2e"]
)
def test_odd_targets_are_answered_in_the_error_shape(gateway, target):
    with served(gateway) as address, connected(address) as client:
        client.sendall(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status, _ = error_in(all_of(client)[0])
    assert 400 <= status < 500


def test_garbage_behind_a_request_ends_only_its_connection(make_gateway, backbone, head, caplog):
    valve = Valve(backbone, head)
    valve.let_through(0)
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=valve))
    body = json.dumps(ask(max_tokens=2)).encode()
    request = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += f"Content-Length: {len(body)}\r\n\r\n"
    with served(gateway) as address, connected(address) as client:
        client.sendall(request.encode() + body + b"\x00\x00garbage\r\n\r\n")
        time.sleep(0.3)
        valve.open()
        answer = all_of(client)[0]
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in answer
    assert not any(record.exc_info for record in caplog.records)


CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)
BODY = json.dumps(ask(max_tokens=1)).encode()


def chunks(body, size):
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize(
    "sent",
    [
        chunks(b" " * 3_000, 1),
        chunks(b" " * 2_000_000, 50_000) + chunks(b" " * 12_000, 1),
        chunks(BODY, 5) + b"zz\r\n",
        b"-1\r\n",
    ],
)
def test_a_body_in_crumbs_or_damaged_chunks_is_refused(gateway, sent):
    """A crumb costs as much work as a large chunk: a few megabytes of them would hold up everybody."""
    with served(gateway) as address, connected(address) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(CHUNKED + sent)
        status, error = error_in(all_of(client)[0])
        assert (status, error["code"]) == (400, "invalid_http")


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_chunks_of_any_size_bring_an_ordinary_body(gateway, size):
    with served(gateway) as address, connected(address) as client:
        client.sendall(CHUNKED + chunks(b" " * 500 + BODY, size) + b"0\r\n\r\n")
        assert all_of(client)[0].startswith(b"HTTP/1.1 200 OK")


def test_an_upgrade_is_neither_made_nor_logged(gateway, caplog):
    with served(gateway) as address, connected(address) as client:
        client.sendall(GET + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert all_of(client)[0].startswith(b"HTTP/1.1 200")
    assert not caplog.records


def test_idle_connections_make_room_for_newcomers(gateway, caplog):
    limits = ConnectionLimits(connections=8)
    with served(gateway, limits) as address, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(address)) for _ in range(300)]
        with httpx2.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=20) as client:
            assert client.get("/health").status_code == 200
            assert client.post(CHAT, json=ask(max_tokens=2)).status_code == 200
        # The oldest have made room.
        assert all_of(idle[0])[0] == b""
    full = [record for record in caplog.records if "connections are in use" in record.message]
    assert len(full) == 1


def test_busy_connections_are_kept_and_newcomers_told(make_gateway, backbone, head):
    valve = Valve(backbone, head)
    valve.let_through(0)
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=valve))
    body = json.dumps(ask(max_tokens=2)).encode()
    request = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with served(gateway, ConnectionLimits(connections=2)) as address, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connected(address)) for _ in range(2)]
        for client in busy:
            client.sendall(request.encode() + body)
        while gateway.engine.active_streams + gateway.engine.waiting < 2:
            time.sleep(0.02)
        with connected(address) as third:
            answer = all_of(third)[0]
        assert error_in(answer)[0] == 503
        assert b"retry-after: 1" in answer.lower()
        valve.open()
        for client in busy:
            assert all_of(client)[0].startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_the_process_outlives_more_connections_than_descriptors(folders):
    command = Command("-m", "lockgate", *options(folders, "--threads", "1", "--port", "0"), cwd=folders)
    process = command.process
    with contextlib.ExitStack() as stack:
        stack.callback(command.close)
        target = urlsplit(command.first_line().split()[3])
        address = (target.hostname, target.port)
        # As after `ulimit -n 64`, but without hindering the start.
        used = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 40, used + 40))
        for _ in range(100):
            stack.enter_context(connected(address))
        with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=30) as client:
            answered = []
            for _ in range(40):
                with contextlib.suppress(httpx2.TransportError):
                    answered.append(client.get("/health").status_code)
                    break
                time.sleep(0.5)
            assert answered == [200]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        errors = command.errors.read_text()
    assert "Traceback" not in errors
    assert len(errors) < 2_000


def test_limits_follow_the_descriptors_of_the_process():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert allowed_connections(10) == 10
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert 1 <= allowed_connections(10_000) < 180
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_descriptors_lowers_the_cap_for_a_while_only(monkeypatch):
    monkeypatch.setattr(_connections, "QUIET_SECONDS", 0.2)
    keeper = Doorkeeper(ConnectionLimits(connections=40))
    before = keeper.most
    context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "too many")}
    keeper.on_loop_fault(None, context)
    assert keeper.most == 1
    assert keeper.admit(object())
    assert not keeper.admit(object())
    time.sleep(0.3)
    assert keeper.admit(object())
    assert keeper.most == before


def test_a_line_is_logged_seldom_and_counts_what_it_leaves_out(caplog):
    caplog.set_level(logging.WARNING)
    seldom = SeldomLog(seconds=0.3)
    for _ in range(5):
        seldom("full")
    time.sleep(0.35)
    seldom("full")
    assert [record.message for record in caplog.records] == [
        "full (0 more since the last line)",
        "full (4 more since the last line)",
    ]


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"head_seconds": 0}])
def test_impossible_limits_are_errors(wrong):
    with pytest.raises(ConfigError):
        ConnectionLimits(**wrong)
