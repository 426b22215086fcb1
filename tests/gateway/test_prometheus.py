"""The rules and the dashboard under `deploy/`, and a real Prometheus that reads a server."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx2
import pytest
from live import serving
from serving import CHAT, ask, scoring_for
from test_given import BACKBONE, HEAD

from lockgate.gateway._state import server_state, upstream_state
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions, Upstreams

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "lockgate.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "lockgate.json"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        words = f"no {name}: apt install prometheus"
        if os.environ.get("LOCKGATE_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(words)
        pytest.skip(words)
    return found


@pytest.fixture
def gateway(make_gateway):
    made = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    made.about_guard = {"sha256": "abc", "budget": 0.0005}
    return made


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*found, RULES.read_text()]


def test_rules_and_dashboard_name_only_what_a_server_tells(gateway) -> None:
    upstreams = Upstreams.of(UpstreamClient(UpstreamOptions("http://127.0.0.1/v1")))
    gateway.metrics.state = lambda: (*server_state(gateway, None), *upstream_state(upstreams))
    told = set(re.findall(r"^# TYPE (\S+) ", gateway.metrics.page().decode(), re.MULTILINE))
    told |= {f"{name}_bucket" for name in told}
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    named = {name for text in expressions() for name in re.findall(r"\blockgate[_:][a-z0-9_:]+", text)}
    assert len(named) > 15
    assert named <= told | recorded


def test_the_rules_are_valid_and_do_what_they_say() -> None:
    promtool = program("promtool")
    for words in (["check", "rules", RULES.name], ["test", "rules", "lockgate.test.yml"]):
        done = subprocess.run(
            [promtool, *words], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_a_real_prometheus_reads_a_server(gateway, tmp_path) -> None:
    command, port = program("prometheus"), free_port()
    with serving(gateway) as url:
        httpx2.post(url + CHAT, json=ask("why does the lock hold", max_tokens=4), timeout=60)
        target = url.removeprefix("http://")
        config = {
            "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "lockgate", "static_configs": [{"targets": [target]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        words = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
        words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        with subprocess.Popen([command, *words]) as server:
            try:
                found = until_told(port, 'lockgate_exchanges_total{decision="pass"}')
                ready = until_told(port, "lockgate_ready")
                budget = until_told(port, 'lockgate_guard_refusal_budget{guard="default"}')
            finally:
                server.terminate()
    assert (found, ready, budget) == ("1", "1", "0.0005")


def until_told(port: int, query: str) -> str:
    """Ask Prometheus until it has a value."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            answer = httpx2.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
            rows = answer.json()["data"]["result"] if answer.status_code == 200 else []
        except httpx2.HTTPError:
            rows = []
        if rows:
            return str(rows[0]["value"][1])
        time.sleep(0.1)
    raise AssertionError(f"Prometheus has no value of {query}")
