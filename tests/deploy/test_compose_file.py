"""The Compose file, as a parser of the specification reads it, and its server on a real PostgreSQL."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from deploying import CLIENT_KEY, DEPLOY, ROOT, ask, module, program, serving, write_config
from logs import checked, decisions_in

from lockgate import __version__

FOLDER = DEPLOY / "compose"
FILE = FOLDER / "compose.yaml"
DOCUMENT = ROOT / "docs" / "deploy.md"
METRICS_KEY = "sk-deployed-metrics"
# What the file asks the operator for.
GIVEN = {
    "LOCKGATE_LOG_PASSWORD": "not asked for here",
    "LOCKGATE_CLIENT_KEY": CLIENT_KEY,
    "LOCKGATE_METRICS_KEY": METRICS_KEY,
    "LOCKGATE_GUARD_FOLDER": "/srv/guards",
    "GRAFANA_PASSWORD": "also not",
}


def resolved() -> str:
    """The file with the operator's variables in place."""

    def value(match: re.Match[str]) -> str:
        return GIVEN[match[1]]

    return re.sub(r"\$\{([A-Z_]+):\?[^}]+\}", value, FILE.read_text())


def services() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(resolved())["services"]
    assert isinstance(found, dict)
    return found


def mounted(service: dict[str, Any]) -> dict[str, str]:
    """What lies at which place of a container."""
    return {mount["target"]: mount["source"] for mount in service["volumes"]}


@pytest.fixture
def deployed(guard_folders, postgres, tmp_path) -> Iterator[Path]:
    config = yaml.safe_load((FOLDER / "config" / "lockgate.yaml").read_text())
    places = {
        "/srv/lockgate": str(guard_folders),
        "postgresql://lockgate@postgres/lockgate": postgres.database(),
    }
    return write_config(tmp_path / "lockgate.yaml", config, places)


def test_a_parser_of_the_specification_reads_the_file() -> None:
    parser = module("compose_spec").PyCompose
    # YAML's merge keys are YAML's business, not the parser's.
    read = parser.from_json(json.dumps(yaml.safe_load(resolved())))
    read.validate()
    assert set(read.service_names()) == set(services()) == {"grafana", "lockgate", "postgres", "prometheus"}
    with pytest.raises(ValueError, match="duration"):
        parser.from_json(json.dumps({"services": {"lockgate": {"stop_grace_period": "soon"}}}))


def test_no_secret_has_a_default() -> None:
    words = re.findall(r"\$\{?([A-Z_]+)(\}|:.)?", FILE.read_text())
    assert {name for name, _ in words} == set(GIVEN)
    assert {after for _, after in words} == {":?"}


def test_every_container_is_confined() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.search(r":v?\d+\.\d+", service["image"]), name
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"lockgate": ["127.0.0.1:8000:8000"]}
    networks = yaml.safe_load(resolved())["networks"]
    assert [name for name, network in networks.items() if not network.get("internal")] == ["outside"]
    assert [name for name, service in services().items() if "outside" in service["networks"]] == ["lockgate"]


def test_what_is_mounted_is_there() -> None:
    for name, service in services().items():
        for target, source in mounted(service).items():
            if source.startswith("."):
                assert (FOLDER / source).exists(), (name, target)
    for provider in ("datasources/prometheus.yml", "dashboards/lockgate.yml"):
        assert yaml.safe_load((FOLDER / "grafana" / provider).read_text())["apiVersion"] == 1
    options = yaml.safe_load((FOLDER / "grafana/dashboards/lockgate.yml").read_text())["providers"][0][
        "options"
    ]
    assert f"{options['path']}/lockgate.json" in mounted(services()["grafana"])
    assert services()["lockgate"]["image"] == f"lockgate:{__version__}"


def test_the_override_of_the_documents_opens_grafana_on_loopback_only() -> None:
    found = re.findall(r"^```yaml\n(services:.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (own,) = (yaml.safe_load(text) for text in found)
    assert own == {
        "services": {"grafana": {"ports": ["127.0.0.1:3000:3000"], "networks": ["inside", "outside"]}}
    }
    networks = yaml.safe_load(resolved())["networks"]
    assert set(own["services"]["grafana"]["networks"]) <= set(networks)


def test_prometheus_accepts_its_config(tmp_path) -> None:
    places = mounted(services()["prometheus"])
    (tmp_path / "metrics_key").write_text(METRICS_KEY)
    text = (FOLDER / "prometheus.yml").read_text()
    rules = "/etc/prometheus/lockgate.rules.yml"
    text = text.replace(rules, str((FOLDER / places[rules]).resolve())).replace("/run/secrets", str(tmp_path))
    (tmp_path / "prometheus.yml").write_text(text)
    promtool = program("promtool", "apt install prometheus")
    words = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_a_server_with_this_config_logs_to_postgresql(preloaded, deployed) -> None:
    told = services()["lockgate"]
    config = yaml.safe_load(deployed.read_text())
    grace = float(told["stop_grace_period"].removesuffix("s"))
    assert grace >= config["listen"]["drain_timeout"] + 20
    variables = {
        name: value for name, value in told["environment"].items() if name != "LOCKGATE_LOG_PASSWORD"
    }
    with serving(
        preloaded, deployed, variables={**variables, "LOCKGATE_HOME": str(deployed.parent)}
    ) as command:
        url = json.loads(command.first_line())["url"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert ask(url, None).status_code == 401
        assert ask(url).status_code == 200
        assert httpx2.get(f"{url}/metrics").status_code == 401
        metrics = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}"})
        assert metrics.status_code == 200
    assert [found["decision"] for found in decisions_in(config["log"]["url"])] == ["pass"]
    assert checked(config["log"]["url"]).ok
