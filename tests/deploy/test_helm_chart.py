"""The Helm chart: linted and rendered by Helm, held against Kubernetes's schemas, its config served."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import jsonschema_rs
import pytest
import yaml
from charting import CHART, EVERYTHING, OWN_KINDS, POSTGRES, VERSIONS, config_of, rendered
from deploying import CLIENT_KEY, DEPLOY, ROOT, ask, module, serving, write_config
from logs import decisions_in

from lockgate import __version__

SECRETS = "/run/secrets/lockgate"


def test_helm_lints_the_chart() -> None:
    helm = module("helm_python")
    for values in ({}, EVERYTHING):
        report = helm.lint(CHART, values, strict=True)
        # 1 is information: a chart may have an icon.
        assert report["errors"] == []
        assert [found for found in report["messages"] if found["severity"] > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_kubernetes_knows_every_field(values, version) -> None:
    validate = module("kubernetes_validate").validate
    objects = rendered(values)
    for kind, item in objects.items():
        if kind not in OWN_KINDS:
            validate(item, version, strict=True)
    always = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    more = {"HorizontalPodAutoscaler", *OWN_KINDS} if values else {"PersistentVolumeClaim"}
    assert set(objects) == always | more


def test_nothing_runs_with_rights() -> None:
    pod = rendered()["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    docker = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert "USER 10001:10001" in docker
    places = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert places == {"/var/lib/lockgate", "/tmp"}  # noqa: S108 - in a container


def test_secrets_are_named_and_never_held() -> None:
    objects = rendered(EVERYTHING)
    assert "Secret" not in objects
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert len(container["env"]) == 3
    assert all(set(found) == {"name", "valueFrom"} for found in container["env"])
    monitor = objects["ServiceMonitor"]["spec"]["endpoints"][0]
    assert monitor["authorization"] == {"credentials": {"name": "lockgate-metrics", "key": "key"}}


@pytest.mark.parametrize("drain", [30, 0.5, 90.5, 600])
def test_kubernetes_waits_longer_than_the_server_drains(drain) -> None:
    objects = rendered({"config": {"listen": {"drain_timeout": drain}}})
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    pause = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + 20


def test_a_log_of_sqlite_has_a_volume_and_one_writer() -> None:
    own = rendered()
    assert own["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    many = rendered({"config": POSTGRES, "replicas": 3})
    assert "PersistentVolumeClaim" not in many
    assert many["Deployment"]["spec"]["strategy"]["type"] == "RollingUpdate"
    assert many["Deployment"]["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 2}, "set config.log.url to a database of PostgreSQL"),
        ({"autoscaling": {"enabled": True}}, "set config.log.url to a database of PostgreSQL"),
        ({"config": {"listen": {"host": "127.0.0.1"}}}, "config.listen.host: expected"),
        ({"config": {"log": {"path": "/data/log.db"}}}, "config.log.path: expected a path below"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "needs metrics.keySecret"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"replica": 1}, "additional properties 'replica' not allowed"),
        ({"secrets": {"variables": {"A": {"value": "sk-1"}}}}, "/secrets/variables/A"),
    ],
)
def test_values_that_would_not_work_are_refused(values, words) -> None:
    helm = module("helm_python")
    with pytest.raises(helm.HelmError, match=words):
        rendered(values)


def test_the_schema_of_values_fits_the_defaults() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    checker = jsonschema_rs.validator_for(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    checker.validate(values)
    assert set(schema["properties"]) - {"global"} == set(values)
    assert not checker.is_valid({**values, "replicas": 0})


def test_the_chart_has_the_rules_and_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    own = (DEPLOY / "prometheus" / "lockgate.rules.yml").read_text()
    assert (CHART / "files" / "lockgate.rules.yml").read_text() == own
    assert rendered(EVERYTHING)["PrometheusRule"]["spec"] == yaml.safe_load(own)


def test_configs_of_the_chart_fit_the_schema_of_config_files() -> None:
    checker = jsonschema_rs.validator_for(json.loads((ROOT / "docs" / "config.schema.json").read_text()))
    for values in ({}, EVERYTHING):
        objects = rendered(values)
        config = config_of(objects)
        checker.validate(config)
        (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": config["listen"]["port"]}]
    assert config["limits"] == {"kv_tokens": 2_000_000}


def test_the_values_of_the_documents_are_right() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"^```yaml\n(image:.*?)^```", text, re.MULTILINE | re.DOTALL)
    objects = rendered(yaml.safe_load(block))
    assert objects["Deployment"]["spec"]["replicas"] == 3
    assert {"ServiceMonitor", "PrometheusRule"} < set(objects)
    for kind, item in objects.items():
        if kind not in OWN_KINDS:
            module("kubernetes_validate").validate(item, VERSIONS[-1], strict=True)
    schema = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    jsonschema_rs.validator_for(schema).validate(config_of(objects))
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    wanted = {config_of(objects)["listen"]["metrics_key_env"], "LOCKGATE_LOG_PASSWORD"}
    assert {found["name"] for found in container["env"]} == wanted


@pytest.fixture
def deployed(guard_folders, tmp_path) -> Iterator[Path]:
    (tmp_path / "client").write_text(CLIENT_KEY)
    places = {"/srv/lockgate": str(guard_folders), SECRETS: str(tmp_path)}
    return write_config(tmp_path / "lockgate.yaml", config_of(rendered()), places)


def test_a_server_runs_with_the_config_of_the_chart(preloaded, deployed) -> None:
    """Probes call it by the address of the pod, and what the chart says of arguments is what it takes."""
    pod = rendered()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert pod["args"] == ["serve", "--config", "/etc/lockgate/lockgate.yaml"]
    with serving(preloaded, deployed, variables={"LOCKGATE_HOME": str(deployed.parent)}) as command:
        url = json.loads(command.first_line())["url"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            answer = httpx2.get(url + pod[name]["httpGet"]["path"], headers={"Host": "10.1.2.3:8000"})
            assert answer.status_code == 200, name
        assert ask(url, None).status_code == 401
        assert ask(url).status_code == 200
        command.send(signal.SIGTERM)
        command.process.wait(60)
    # Without a path, the log is in LOCKGATE_HOME, where the volume is.
    assert len(decisions_in(deployed.parent / "decisions.db")) == 1
