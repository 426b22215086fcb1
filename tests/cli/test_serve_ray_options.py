"""What `lockgate serve-ray` refuses before it starts Ray."""

import importlib.util
import socket

import pytest
import yaml

from lockgate.cli import main

UPSTREAMS = {"up": {"url": "http://127.0.0.1:9/v1"}}


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path))
    monkeypatch.delenv("LOCKGATE_API_KEY", raising=False)

    def run(config, *arguments):
        file = tmp_path / "lockgate.yaml"
        file.write_text(yaml.safe_dump({"upstreams": UPSTREAMS, "log": {"path": "decisions.db"}, **config}))
        with pytest.raises(SystemExit) as ended:
            main(["serve-ray", "--config", str(file), *arguments])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return " ".join(error.split())

    return run


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ({"upstreams": {}}, [], "upstreams: scorers read the answers of upstreams; name at least one"),
        ({"mode": "off"}, [], "mode off: there is nothing to score; use lockgate serve"),
        ({"guards": {"other": "embedded"}}, [], "guards: scorers have one guard; name it in `guard`"),
        ({"listen": {"host": "0.0.0.0"}}, [], "no API key is set"),  # noqa: S104
        ({"listen": {"port": 0}}, [], "listen.port: Ray Serve can't take a free port"),
        ({"guard": "nowhere"}, [], "nowhere: holds no guard"),
        ({}, ["--proxies", "2"], "log.url: --proxies 2 need PostgreSQL, a file has one writer"),
        (
            {"log": {"url": "postgresql://lockgate@127.0.0.1:9/log"}, "operations": {"path": "tenants.db"}},
            ["--proxies", "2"],
            "operations.url: --proxies 2 need PostgreSQL to share limits",
        ),
        ({}, ["--scorers", "3", "--most-scorers", "2"], "--most-scorers 2: expected at least as many as"),
        ({}, ["--scorers", "0"], "--scorers"),
        ({"limits": {"max_stream": 1}}, [], "max_stream"),
    ],
)
def test_what_can_not_be_served_on_ray_is_one_clear_error(refused, config, arguments, said) -> None:
    if "listen" not in config:
        with socket.create_server(("127.0.0.1", 0)) as free:
            config = {**config, "listen": {"port": free.getsockname()[1]}}
    assert said in refused(config, *arguments)


def test_a_port_in_use_is_said_at_once(refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused({"listen": {"port": port}})


def test_ray_without_its_token_is_refused(refused, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_USAGE_STATS_ENABLED", "FORWARDED_ALLOW_IPS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0" if "RAY" in name else "")
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "120")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "RAY_AUTH_MODE: replicas of Ray Serve listen on all addresses" in refused(
        {"listen": {"port": port}}
    )


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_extra_is_named(refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "lockgate[ray]" in refused({"listen": {"port": port}})
