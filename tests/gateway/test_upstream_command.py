"""`lockgate serve --upstream` as a process, and its options."""

import json
import signal

import httpx2
import pytest
from scripted_upstream import Reply, chat_stream, scripted_upstream
from served import options, serving
from serving import CHAT, ask, events_of, text_of

from lockgate.cli import main

pytestmark = pytest.mark.anyio
TEXTS = ["The lock", " holds the", " water back."]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("enforce", "guard {guard} in front of {url}, mode enforce, UNCALIBRATED"),
        ("shadow", "guard {guard} in front of {url}, mode shadow"),
        ("off", "NO GUARD in front of {url}, mode off"),
    ],
)
async def test_it_guards_an_upstream(preloaded, folders, mode, said) -> None:
    secret = {"UPSTREAM_KEY": "sk-of-the-upstream"}
    own = ("--upstream-model", "big", "--upstream-key-env", "UPSTREAM_KEY", "--mode", mode, "--port", "0")
    async with scripted_upstream(Reply([chat_stream(TEXTS)])) as upstream:
        with serving(preloaded, folders, "--upstream", upstream.url, *own, variables=secret) as (
            process,
            line,
        ):
            assert said.format(guard=folders / "guard", url=upstream.url) in line
            base = line.split()[3]
            async with httpx2.AsyncClient(base_url=base, timeout=60) as client:
                events = events_of(await client.post(CHAT, json=ask(stream=True)))
                assert (await client.get("/readyz")).json()["mode"] == mode
                assert (await client.get("/")).status_code == 404
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    assert text_of(events) == "".join(TEXTS)
    assert upstream.requests[0]["model"] == "big"
    assert upstream.headers[0]["authorization"] == "Bearer sk-of-the-upstream"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--upstream", "ftp://127.0.0.1/v1"), "expected http(s)://HOST[:PORT]/v1"),
        (("--upstream", "http://u:secret@127.0.0.1/v1"), "holds a password"),
        (("--upstream", "http://127.0.0.1/v1", "--upstream-key-env", "NOT_SET_ANYWHERE"), "is not set"),
        (("--upstream", "http://127.0.0.1/v1", "--upstream-media", "maybe"), "expected refuse or pass"),
        (("--upstream", "http://127.0.0.1/v1", "--playground"), "not with --upstream"),
        (("--upstream", "http://127.0.0.1/v1", "--risk-header"), "not with --upstream"),
        (("--upstream", "http://127.0.0.1/v1", "--engine", "vllm"), "leave out one of both"),
        (("--upstream-model", "big"), "--upstream-model: needs --upstream URL"),
        (("--upstream-key-env", "HOME"), "--upstream-key-env: needs --upstream URL"),
        (("--upstream-media", "pass"), "--upstream-media: needs --upstream URL"),
    ],
)
def test_bad_options_are_usage_errors(folders, arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options(folders, *arguments))
    assert caught.value.code == 2
    found = capsys.readouterr().err
    assert said in found
    assert "secret" not in found


async def test_the_ready_line_as_json_names_the_upstream(preloaded, folders) -> None:
    async with scripted_upstream(Reply([chat_stream(TEXTS)])) as upstream:
        arguments = ("--upstream", upstream.url, "--mode", "off", "--port", "0", "--json")
        with serving(preloaded, folders, *arguments) as (_, line):
            told = json.loads(line)
    assert (told["upstream"], told["mode"], told["guard"]) == (upstream.url, "off", None)
