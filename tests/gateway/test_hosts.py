"""Host names: which ones the server answers to, and the shape of the refusal."""

import httpx2
import pytest
from serving import CHAT, ask, client_for, scoring_for

from lockgate.errors import ConfigError
from lockgate.gateway._hosts import check_host_names

pytestmark = pytest.mark.anyio

OWN = ("localhost", "127.0.0.1:8000", "[::1]:80", "LocalHost.")
ALLOWED = (
    "chat.example.org",
    "Chat.Example.org:443",
    "a.mill.example",
    "a.b.mill.example:1",
    "10.0.0.7:8000",
    "[fd00::1]:8",
)
OTHERS = (
    "",
    "evil.example",
    "mill.example",
    "evilmill.example",
    "chat.example.org.evil.example",
    "[fd00::2]",
    "localhost@x",
    "x:localhost",
)
NAMES = ("Chat.example.org", "*.mill.example", "10.0.0.7", "fd00:0::1")


async def status(client: httpx2.AsyncClient, host: str, path: str = "/v1/models") -> httpx2.Response:
    return await client.get(path, headers={"host": host})


async def test_further_names_are_answered_to_beside_this_machines_own(make_gateway, backbone, head):
    for loopback in (True, False):
        gateway = make_gateway(backbone, scoring_for(backbone, head), allowed_hosts=NAMES, loopback=loopback)
        async with client_for(gateway) as client:
            for host in (*OWN, *ALLOWED):
                assert (await status(client, host)).status_code == 200, host
            for host in OTHERS:
                refused = await status(client, host)
                assert refused.status_code == 400, host
                error = refused.json()["error"]
                assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_host")
                assert not host or host not in error["message"]
            # Orchestrators ask a container for its health by its address.
            health = (await status(client, "10.1.2.3:8000", "/healthz")).status_code
            assert health == (400 if loopback else 200)


async def test_without_names_a_server_for_other_machines_answers_to_all(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head), loopback=False)
    async with client_for(gateway) as client:
        assert (await status(client, "evil.example")).status_code == 200


async def test_a_chat_under_a_wrong_name_is_no_chat(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        refused = await client.post(CHAT, json=ask(max_tokens=1), headers={"host": "evil.example"})
    assert refused.json()["error"]["code"] == "invalid_host"


@pytest.mark.parametrize("name", ["", "http://a", "a:80", "a b", "*", "a.*.b", "a/b", "*.*.a", "-a"])
def test_what_is_no_host_is_a_clear_error(name):
    with pytest.raises(ConfigError, match="--allowed-host"):
        check_host_names([name])
