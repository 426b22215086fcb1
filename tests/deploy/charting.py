"""Rendering of the Helm chart by Helm's own library, and Kubernetes's own schemas."""

from typing import Any

import yaml
from deploying import DEPLOY, module

CHART = DEPLOY / "helm" / "lockgate"
# The oldest version of the chart's `kubeVersion`, and a late one.
VERSIONS = ("1.27.0", "1.34.0")
OWN_KINDS = ("PrometheusRule", "ServiceMonitor")
POSTGRES = {"log": {"url": "postgresql://lockgate@db.internal/lockgate"}}
EVERYTHING: dict[str, Any] = {
    "config": {
        **POSTGRES,
        "listen": {"metrics_key_env": "LOCKGATE_METRICS_KEY", "drain_timeout": 90.5},
        "upstreams": {"hosted": {"url": "https://models.example.org/v1", "key_env": "HOSTED_KEY"}},
        "limits": {"kv_tokens": 2_000_000},
    },
    "autoscaling": {"enabled": True},
    "secrets": {
        "variables": {
            "LOCKGATE_LOG_PASSWORD": {"name": "lockgate-log", "key": "password"},
            "LOCKGATE_METRICS_KEY": {"name": "lockgate-metrics", "key": "key"},
            "HOSTED_KEY": {"name": "hosted", "key": "key"},
        }
    },
    "guardVolume": {"persistentVolumeClaim": {"claimName": "guards", "readOnly": True}},
    "metrics": {
        "keySecret": {"name": "lockgate-metrics", "key": "key"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True},
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    },
    "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]},
    "podAnnotations": {"example.org/owner": "platform"},
    "podLabels": {"team": "platform"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "image": {"repository": "registry.internal/lockgate", "pullSecrets": [{"name": "registry"}]},
    "serviceAccountName": "lockgate",
    "runtimeClassName": "nvidia",
}


def rendered(values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The objects of the chart, by kind. Each kind occurs once."""
    with module("helm_python").Chart.load(CHART) as chart:
        texts = chart.render(values or {}, name="demo", namespace="prod")
    found: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        for item in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if item is not None:
                assert item["kind"] not in found
                found[item["kind"]] = item
    return found


def config_of(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The config file in the ConfigMap."""
    found = yaml.safe_load(objects["ConfigMap"]["data"]["lockgate.yaml"])
    assert isinstance(found, dict)
    return found
