"""Endpoints that want other fields, and proxies in the environment."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from typing import ClassVar

import pytest
from fake_endpoint import reply, serving_endpoint
from pydantic import ValidationError
from starlette.responses import JSONResponse

from lockgate.cli._factory import read_fields
from lockgate.errors import ConfigError, GeneratorError
from lockgate.exchanges import Message
from lockgate.synthesis import EndpointConfig, EndpointGenerator, GenerationRequest

REQUEST = GenerationRequest((Message("user", "x"),), max_tokens=7, temperature=0.3, seed=5)


def answer(body, attempt):
    return JSONResponse(reply("so"))


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"max_tokens": 7, "temperature": 0.3, "seed": 5}),
        (
            {"max_tokens": "max_completion_tokens"},
            {"max_completion_tokens": 7, "temperature": 0.3, "seed": 5},
        ),
        ({"seed": None, "temperature": None}, {"max_tokens": 7}),
        ({"seed": "random_seed", "max_tokens": None}, {"random_seed": 5, "temperature": 0.3}),
    ],
)
def test_fields_go_by_the_endpoints_names(fields, sent) -> None:
    with serving_endpoint(manners=answer) as endpoint:
        config = EndpointConfig(base_url=endpoint.url, model="m", trust_env=False, fields=fields)
        assert EndpointGenerator(config).generate([REQUEST])[0].text == "so"
        body = dict(endpoint.bodies[0])
    assert body.pop("model") == "m"
    assert body.pop("messages") == [{"role": "user", "content": "x"}]
    assert body == sent


def test_other_fields_are_another_generator_and_none_is_the_one_before() -> None:
    plain = EndpointConfig(base_url="http://h/v1", model="m")
    assert plain.identity == "m at http://h/v1"
    assert EndpointConfig(base_url="http://h/v1", model="m", fields={"seed": None}).identity != plain.identity


@pytest.mark.parametrize(
    "settings",
    [
        {"fields": {"top_p": "p"}},
        {"fields": {"seed": ""}},
        {"fields": {"seed": "model"}},
        {"fields": {"seed": "max_tokens"}},
        {"fields": {"seed": "s"}, "extra_body": {"s": 1}},
        {"extra_body": {"seed": 1}},
    ],
)
def test_fields_that_cannot_be_meant_are_refused(settings) -> None:
    with pytest.raises(ValidationError):
        EndpointConfig(base_url="http://h/v1", model="m", **settings)


def test_a_field_left_out_may_be_set_for_all() -> None:
    config = EndpointConfig(base_url="http://h/v1", model="m", fields={"seed": None}, extra_body={"seed": 1})
    assert config.extra_body == {"seed": 1}


def test_the_option_names_fields() -> None:
    assert read_fields(["seed=", "max_tokens=max_completion_tokens"]) == {
        "seed": None,
        "max_tokens": "max_completion_tokens",
    }
    for given in (["seed"], ["seed=a", "seed=b"]):
        with pytest.raises(ConfigError, match="FIELD=NAME"):
            read_fields(given)


def clear_proxies(monkeypatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class _Proxy(BaseHTTPRequestHandler):
    """Answers in the place of whatever server it is asked for."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(reply("so")).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def test_an_http_proxy_is_asked(monkeypatch) -> None:
    clear_proxies(monkeypatch)
    with HTTPServer(("127.0.0.1", 0), _Proxy) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
        config = EndpointConfig(base_url="http://no-such-host.invalid/v1", model="m")
        assert EndpointGenerator(config).generate([REQUEST])[0].text == "so"
        thread.join(10)
    assert _Proxy.asked == ["http://no-such-host.invalid/v1/chat/completions"]


def test_an_address_that_is_no_proxy_is_an_error(monkeypatch) -> None:
    clear_proxies(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    generator = EndpointGenerator(EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(GeneratorError, match="invalid address"):
        generator.generate([REQUEST])


def test_a_socks_proxy_without_its_package_is_exit_2(tmp_path, monkeypatch) -> None:
    clear_proxies(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    code = (
        "import sys; sys.modules['socksio'] = None\n"
        "from lockgate.cli import main\n"
        f"main(['synthesize', 'stage-magic', '--out', {str(tmp_path / 'x')!r}, '--generator', "
        "'http://192.0.2.1:9/v1', '--model', 'm'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SOCKS proxy" in done.stderr
    assert "lockgate[synthesis]" in done.stderr


@pytest.mark.skipif(find_spec("socksio") is None, reason="the package for SOCKS proxies is not installed")
def test_a_socks_proxy_that_is_not_there_is_no_connection(monkeypatch) -> None:
    clear_proxies(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    config = EndpointConfig(base_url="http://192.0.2.1:9/v1", model="m", retries=0)
    with pytest.raises(GeneratorError, match="no answer in 1 attempts"):
        EndpointGenerator(config).generate([REQUEST])
