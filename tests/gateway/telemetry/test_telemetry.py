"""What turns telemetry on, what does not, and the ids by which lines, records and traces are joined."""

import json
import logging
import re
import signal

import httpx2
import pytest
from collector import attributes_of, collecting, sending_to
from hypothesis import given
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from processes import Command
from served import options
from serving import CHAT, ask, client_for, scoring_for

from lockgate.cli import main
from lockgate.errors import ConfigError
from lockgate.gateway import TelemetryOptions
from lockgate.gateway._logs import JsonLines
from lockgate.gateway.config import apply_config, read_config

pytestmark = pytest.mark.anyio

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
URL = "http://127.0.0.1:4318"
SECRET = "purple-otter"  # noqa: S105 - a made-up token
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"endpoint": "localhost:4318"}, "expected http"),
        ({"endpoint": "http://me:word@host"}, "holds a password"),
        ({"endpoint": "http://[::1"}, "expected http"),
        ({"endpoint": "http://host:99999"}, "expected http"),
        ({"endpoint": f"{URL}/?q=1"}, "without query"),
        ({"endpoint": f"{URL}/v1/traces"}, "what stands before /v1/traces"),
        ({"headers_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"service_name": " "}, "service_name"),
        ({"share": 1.5}, "share from 0 to 1"),
        ({"interval": 0.0}, "interval above 0"),
        ({"traces": False, "metrics": False}, "both off"),
    ],
)
def test_settings_that_are_refused(fields, why) -> None:
    with pytest.raises(ConfigError, match=why):
        TelemetryOptions(**{"endpoint": URL, **fields})


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1))
def test_a_variable_gives_headers_or_an_error_without_its_value(text) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCKGATE_TEST_HEADERS", f"authorization=Bearer%20{SECRET},{text}")
        made, fault = None, ""
        try:
            made = TelemetryOptions(URL, "LOCKGATE_TEST_HEADERS")
        except ConfigError as error:
            fault = str(error)
    assert SECRET not in fault
    assert ("is no header; expected NAME=VALUE" in fault) == (made is None)
    if made is None:
        return
    assert made.headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(made)
    httpx2.Headers(made.headers)


def test_the_file_says_what_is_sent(tmp_path, monkeypatch) -> None:
    path = tmp_path / "lockgate.yaml"
    monkeypatch.setenv("OTLP_HEADERS", "api-key=k")
    path.write_text(
        f"telemetry: {{endpoint: '{URL}/', headers_env: OTLP_HEADERS, service_name: doors, metrics: false, "
        "sample_percent: 5, interval: 30}\n"
    )
    found = apply_config(read_config(path), path).telemetry
    assert found == TelemetryOptions(URL, "OTLP_HEADERS", "doors", metrics=False, share=0.05, interval=30.0)
    assert found.headers == {"api-key": "k"}
    path.write_text("mode: shadow\n")
    assert apply_config(read_config(path), path).telemetry is None


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("{endpoint: 'http://h', colour: red}", "telemetry.colour: is not a known key"),
        ("{traces: true}", "telemetry.endpoint: is missing"),
        ("{endpoint: 'http://h', sample_percent: 101}", "telemetry.sample_percent"),
        ("{endpoint: 'http://h', headers_env: NOT_SET}", "lockgate.yaml: telemetry headers_env"),
    ],
)
def test_a_file_that_is_refused(tmp_path, section, why) -> None:
    path = tmp_path / "lockgate.yaml"
    path.write_text(f"telemetry: {section}\n")
    with pytest.raises(ConfigError, match=why):
        apply_config(read_config(path), path)


def test_options_that_are_refused(tmp_path, capsys) -> None:
    config = tmp_path / "lockgate.yaml"
    config.write_text("mode: shadow\n")
    for words, why in (
        (["--otlp-headers-env", "X"], "needs --otlp-endpoint"),
        (["--config", str(config), "--otlp-endpoint", URL], "`telemetry` in"),
        (["--otlp-endpoint", "nowhere"], "telemetry endpoint: expected http"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--port", "0", *words])
        assert ended.value.code == 2
        assert why in capsys.readouterr().err


async def test_variables_alone_send_nothing(make_gateway, monkeypatch) -> None:
    with collecting() as named, collecting() as chosen:
        for name, value in {
            "OTEL_EXPORTER_OTLP_ENDPOINT": named.url,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{named.url}/v1/traces",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_TRACES_SAMPLER": "always_off",
            "OTEL_SERVICE_NAME": "another",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            "HTTP_PROXY": named.url,
        }.items():
            monkeypatch.setenv(name, value)
        for telemetry in (None, sending_to(chosen)):
            gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=telemetry)
            async with client_for(gateway) as client:
                await client.post(CHAT, json=ask(max_tokens=2))
            assert (gateway.telemetry.tracer is None) == (telemetry is None)
    assert named.headers == []
    assert len(chosen.spans) > 3
    assert not any(SECRET in str(headers) for headers in chosen.headers)
    (resource,) = chosen.requests[0].resource_spans
    about = attributes_of(resource.resource)
    # What the operator says about the place holds, beside what the config says.
    assert (about["service.name"], about["deployment.environment.name"]) == ("lockgate", "test")


async def test_a_line_about_a_request_names_its_trace(make_gateway) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(json.loads(JsonLines().format(record)))

    kept: list[dict] = []
    handler = Kept()
    logger = logging.getLogger("lockgate.access")
    logger.addHandler(handler)
    try:
        with collecting() as collector:
            gateway = make_gateway(
                BACKBONE, scoring_for(BACKBONE, HEAD), telemetry=sending_to(collector, metrics=False)
            )
            async with client_for(gateway) as client:
                headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "mine"}
                await client.post(CHAT, json={"model": "big"}, headers=headers)
                await client.get("/nowhere", headers=headers)
    finally:
        logger.removeHandler(handler)
    assert [(row["status"], row.get("trace_id")) for row in kept] == [(400, TRACE), (404, None)]
    (span,) = collector.spans
    assert attributes_of(span)["lockgate.request.id"] == kept[0]["request_id"] == "mine"
    assert attributes_of(span)["http.response.status_code"] == 400


@pytest.mark.parametrize("by_file", [True, False])
def test_a_served_process_sends_and_stops(folders, preloaded, tmp_path, by_file) -> None:
    with collecting() as collector:
        config = tmp_path / "lockgate.yaml"
        section = f"telemetry: {{endpoint: '{collector.url}', headers_env: HEADERS, interval: 600}}"
        where = (
            f"guard: {folders / 'guard'}\nbackbone: {folders / 'model'}\nthreads: 1\nlisten: {{port: 0}}\n"
        )
        config.write_text(f"{where}{section}\n")
        log = tmp_path / "decisions.db"
        named = ("--otlp-endpoint", collector.url, "--otlp-headers-env", "HEADERS", "--port", "0")
        words = ["serve", "--config", config, "--decisions", log]
        if not by_file:
            words = options(folders, "--threads", "1", *named, log=log)
        variables = {"HEADERS": f"authorization=Bearer%20{SECRET}"}
        command = Command("lockgate", *words, cwd=tmp_path, preloaded=preloaded, variables=variables)
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", command.first_line())
            httpx2.post(url[0] + CHAT, json=ask(max_tokens=2), timeout=60)
            command.send(signal.SIGTERM)
            command.process.wait(60)
        finally:
            command.close()
    assert {"lockgate.exchange", f"POST {CHAT}"} <= {span.name for span in collector.spans}
    assert collector.metrics["lockgate_exchanges_total"].sum.data_points[0].as_double == 1
    assert {headers["authorization"] for headers in collector.headers} == {f"Bearer {SECRET}"}
    assert SECRET not in command.errors.read_text()
