"""Where requests to an upstream go, with which headers, and settings that are refused."""

import httpx2
import pytest

from lockgate.errors import ConfigError
from lockgate.gateway.upstream import UpstreamClient, UpstreamOptions

pytestmark = pytest.mark.anyio
URL = "http://127.0.0.1:8080/v1"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "ftp://host/v1"}, "http"),
        ({"url": "localhost:8080"}, "http"),
        ({"url": "http://"}, "http"),
        ({"url": f"{URL}?key=1"}, "query"),
        ({"url": "http://me:secret@host/v1"}, "key_env"),
        ({"first_timeout": 0}, "time-outs"),
        ({"retries": -1}, "retries"),
        ({"media": "maybe"}, "media"),
        ({"max_answer_bytes": 0}, "max_answer_bytes"),
        ({"key_env": "LOCKGATE_NO_SUCH_VARIABLE"}, "LOCKGATE_NO_SUCH_VARIABLE is not set"),
    ],
)
def test_settings_that_are_refused(fields, why) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        UpstreamOptions(**{"url": URL, **fields})
    assert "secret" not in str(caught.value)


def test_a_key_is_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-secret")
    options = UpstreamOptions(URL, key_env="UPSTREAM_KEY")
    assert options.key == "sk-secret"
    assert "sk-secret" not in repr(options)


CLIENT = {"authorization": "Bearer mine", "x-api-key": "mine", "traceparent": "00-1", "cookie": "no"}


@pytest.mark.parametrize(
    ("key", "own_key", "expected"),
    [
        (None, False, {"authorization": "Bearer mine", "x-api-key": "mine"}),
        (None, True, {}),
        ("sk-secret", False, {"authorization": "Bearer sk-secret"}),
        ("sk-secret", True, {"authorization": "Bearer sk-secret"}),
    ],
)
async def test_whose_key_the_upstream_gets(key, own_key, expected) -> None:
    client = UpstreamClient(UpstreamOptions(URL, key=key))
    headers = client.headers_for(CLIENT, own_key=own_key, name="req_1")
    sent = {"traceparent": "00-1", "content-type": "application/json", "x-request-id": "req_1"}
    assert headers == {**sent, **expected}
    await client.close()


async def test_anthropic_clients_get_the_key_in_their_header() -> None:
    client = UpstreamClient(UpstreamOptions(URL, key="sk-secret"))
    given = {"anthropic-version": "2023-06-01", "x-api-key": "mine"}
    headers = client.headers_for(given, own_key=False, name="req_1")
    assert headers["x-api-key"] == "sk-secret"
    await client.close()


async def test_it_goes_to_the_configured_address_only(monkeypatch) -> None:
    """Neither a redirect nor a proxy of the environment takes a request elsewhere."""
    monkeypatch.setenv("HTTP_PROXY", "http://elsewhere:1")
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(302, headers={"location": "http://elsewhere/v1"})

    client = UpstreamClient(UpstreamOptions(f"{URL}/"), httpx2.MockTransport(answer))
    with pytest.raises(Exception, match="redirects"):
        async with client.send("POST", "/chat/completions", {}, b"{}"):
            pass
    assert seen == [f"{URL}/chat/completions"]
    await client.close()


def test_the_model_is_named_as_the_upstream_knows_it() -> None:
    client = UpstreamClient(UpstreamOptions(URL, model="big"))
    assert client.name_model({"model": "any", "n": 1}) == {"model": "big", "n": 1}
    assert UpstreamClient(UpstreamOptions(URL)).name_model({"model": "any"}) == {"model": "any"}
