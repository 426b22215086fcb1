"""A server with a config file: several upstreams, and what SIGHUP changes."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from processes import Command
from scripted_upstream import DONE, Reply, chat_stream, delta, event, scripted_upstream
from served import options, save_strict
from serving import CHAT, ask, events_of, text_of

from lockgate.cli import main
from lockgate.decisions import open_log
from lockgate.gateway import Keyring
from lockgate.gateway.config import Follower, apply_config, read_config

pytestmark = pytest.mark.anyio


def saying(text: str) -> Reply:
    return Reply([chat_stream([text])])


def file_of(folder: Path, text: str) -> Path:
    path = folder / "lockgate.yaml"
    path.write_text(text)
    return path


async def answer(client: httpx2.AsyncClient, model: str, **more: str) -> str:
    response = await client.post(CHAT, json={**ask(stream=True), "model": model}, headers=more)
    return text_of(events_of(response)) if response.status_code == 200 else str(response.status_code)


@contextmanager
def configured(preloaded, folders, path, **variables) -> Iterator[Command]:
    """A server that runs with the config file at `path`."""
    words = options(folders, "--threads", "1", "--config", str(path))
    command = Command("lockgate", *words, cwd=folders, preloaded=preloaded, variables=variables)
    try:
        yield command
    finally:
        command.close()


async def reloaded(command: Command, said: str) -> str:
    """Let the server read its file again, and return the line that it says about it."""
    before = command.errors.read_text()
    command.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(30):
        while not (more := command.errors.read_text().removeprefix(before)).endswith("\n"):
            await asyncio.sleep(0.05)
    assert said in more
    assert more.count("\n") == 1
    return more


async def test_sighup_replaces_upstreams_while_open_streams_go_on(preloaded, folders, tmp_path) -> None:
    go = asyncio.Event()
    slow = Reply([event(delta(content="The lock")), go.wait, event(delta(content=" holds.")),
                  event(delta(0, "stop")), DONE])  # fmt: skip
    async with scripted_upstream(slow, saying("old")) as old, scripted_upstream(saying("new")) as new:
        both = (
            "listen: {{port: 0}}\nmode: shadow\nkeys: {{team: {{env: TEAM_KEY}}}}\n"
            "upstreams:\n  a: {{url: '{0}', models: [small]}}\n  b: {{url: '{1}', models: [big]}}\n"
        )
        path = file_of(tmp_path, both.format(old.url, new.url))
        with configured(preloaded, folders, path, TEAM_KEY="sk-team") as command:
            line = command.first_line()
            base, bearer = line.split()[3], {"authorization": "Bearer sk-team"}
            assert f"in front of {old.url}, {new.url}, mode shadow" in line
            async with httpx2.AsyncClient(base_url=base, timeout=60) as client:
                assert await answer(client, "small") == "401"
                open_one = asyncio.ensure_future(answer(client, "small", **bearer))
                async with asyncio.timeout(30):
                    while not old.requests:
                        await asyncio.sleep(0.02)
                assert await answer(client, "big", **bearer) == "new"
                assert await answer(client, "other", **bearer) == "404"
                listed = (await client.get("/v1/models", headers=bearer)).json()["data"]
                assert [entry["id"] for entry in listed] == ["small", "big"]

                path.write_text("nonsense: sk-team\n")
                line = await reloaded(command, "nothing has changed")
                assert "nonsense: is not a known key" in line
                assert "sk-team" not in line
                assert await answer(client, "big", **bearer) == "new"

                path.write_text(both.format(new.url, new.url).replace("shadow", "enforce"))
                await reloaded(command, "read again")
                assert await answer(client, "small", **bearer) == "new"
                assert (await client.get("/readyz")).json()["mode"] == "enforce"
                go.set()
                assert await open_one == "The lock holds."
    assert len(old.requests) == 1


async def test_mode_off_follows_its_file_too(preloaded, folders, tmp_path) -> None:
    async with scripted_upstream(saying("old")) as old, scripted_upstream(saying("new")) as new:
        text = "mode: off\nlisten: {{port: 0}}\nupstreams: {{a: {{url: '{0}'}}}}\n"
        path = file_of(tmp_path, text.format(old.url))
        with configured(preloaded, folders, path) as command:
            line = command.first_line()
            assert "NO GUARD" in line
            async with httpx2.AsyncClient(base_url=line.split()[3], timeout=60) as client:
                assert await answer(client, "any") == "old"
                path.write_text(text.format(new.url))
                await reloaded(command, "read again")
                assert await answer(client, "any") == "new"
                path.write_text(text.format(old.url).replace("off", "enforce"))
                assert "needs a restart" in await reloaded(command, "nothing has changed")
                assert await answer(client, "any") == "new"


@contextmanager
def with_links(preloaded, folders, path) -> Iterator[Command]:
    """A server whose file at `path` names its guard."""
    words = ["serve", "--backbone", str(folders / "model"), "--decisions", str(path.parent / "log.db")]
    words += ["--threads", "1", "--config", str(path)]
    command = Command("lockgate", *words, cwd=path.parent, preloaded=preloaded)
    try:
        yield command
    finally:
        command.close()


async def test_sighup_exchanges_the_guard_while_open_streams_go_on(preloaded, folders, tmp_path) -> None:
    save_strict(folders, tmp_path / "strict")
    link, new = tmp_path / "current", tmp_path / "new"
    link.symlink_to(folders / "guard")
    go = asyncio.Event()
    slow = Reply([event(delta(content="The lock")), go.wait, event(delta(content=" holds.")),
                  event(delta(0, "stop")), DONE])  # fmt: skip
    async with scripted_upstream(slow, saying("The lock holds.")) as upstream:
        text = f"listen: {{port: 0}}\nguard: current\nupstreams: {{a: {{url: '{upstream.url}'}}}}\n"
        path = file_of(tmp_path, text)
        with with_links(preloaded, folders, path) as command:
            base = command.first_line().split()[3]
            async with httpx2.AsyncClient(base_url=base, timeout=60) as client:
                open_one = asyncio.ensure_future(answer(client, "any"))
                async with asyncio.timeout(30):
                    while not upstream.requests:
                        await asyncio.sleep(0.02)
                new.symlink_to(tmp_path / "strict")
                new.replace(link)
                reading = asyncio.ensure_future(reloaded(command, "has taken over from guard"))
                await asyncio.sleep(0.5)
                go.set()
                assert await open_one == "The lock holds."
                assert "guard strict" in await reading
                assert await answer(client, "any") == ""
                assert (await client.get("/readyz")).json()["guard"]["name"] == "strict"

                path.write_text(text.replace("current", "nowhere") + "mode: shadow\n")
                assert "holds no guard" in await reloaded(command, "nothing has changed")
                assert (await client.get("/readyz")).json()["mode"] == "enforce"
                path.write_text(text)
                assert "taken over" not in await reloaded(command, "read again")

                new.symlink_to(folders / "guard")
                new.replace(link)
                await reloaded(command, "guard guard (")
                assert await answer(client, "any") == "The lock holds."
    with open_log(tmp_path / "log.db") as log:
        assert [stored.record["by"] for stored in log.records(kinds=["guard"])] == ["config"] * 2
        assert log.verify().ok


async def test_open_answers_get_as_long_as_the_file_gives_them(preloaded, folders, tmp_path) -> None:
    """The upstream never ends this answer. Without the key it would hold the change up for half a minute."""
    save_strict(folders, tmp_path / "strict")
    link, new = tmp_path / "current", tmp_path / "new"
    link.symlink_to(folders / "guard")
    never = asyncio.Event()
    stuck = Reply([event(delta(content="The lock")), never.wait, DONE])
    async with scripted_upstream(stuck, saying("The lock holds.")) as upstream:
        path = file_of(
            tmp_path,
            f"listen: {{port: 0}}\nguard: current\nupstreams: {{a: {{url: '{upstream.url}'}}}}\n"
            "limits: {promotion_timeout: 0.2}\n",
        )
        with with_links(preloaded, folders, path) as command:
            base = command.first_line().split()[3]
            async with httpx2.AsyncClient(base_url=base, timeout=60) as client:
                asked = client.post(CHAT, json={**ask(stream=True), "model": "any"})
                open_one = asyncio.ensure_future(asked)
                async with asyncio.timeout(30):
                    while not upstream.requests:
                        await asyncio.sleep(0.02)
                new.symlink_to(tmp_path / "strict")
                new.replace(link)
                async with asyncio.timeout(20):
                    assert "has taken over from guard" in await reloaded(command, "has taken over")
                    ended = await open_one
                assert '"error"' in ended.text
                assert "holds" not in ended.text
        never.set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "0"), "--port: with --config, `listen.port` in "),
        (("--mode", "shadow"), "--mode: with --config, `mode` in "),
        (("--upstream", "http://127.0.0.1:1/v1"), "--upstream: with --config, `upstreams` in "),
        (("--api-key-file", "x"), "--api-key-file: with --config, `keys` in "),
        (("--max-streams", "2"), "--max-streams: with --config, `limits.max_streams` in "),
    ],
)
def test_options_and_file_never_say_the_same_thing(tmp_path, arguments, said, capsys) -> None:
    path = file_of(tmp_path, "listen: {port: 0}\nlimits: {max_streams: 3}\n")
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--config", str(path), *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_variable_with_the_key_is_not_ignored(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCKGATE_API_KEY", "sk-own")
    with pytest.raises(SystemExit):
        main(["serve", "--config", str(file_of(tmp_path, "listen: {port: 0}\n"))])
    assert "LOCKGATE_API_KEY is set" in capsys.readouterr().err


async def test_a_server_that_is_paused_reads_its_file_afterwards(tmp_path) -> None:
    lines: list[str] = []
    path = tmp_path / "lockgate.yaml"
    path.write_text("mode: off\n")
    applied = apply_config(read_config(path), path)
    follower = Follower(path, applied, None, None, Keyring({}, None), lines.append)
    with follower.pause():
        reading = threading.Thread(target=follower)
        reading.start()
        # Only whoever holds the server back can be as late as this.
        reading.join(0.1)
        assert lines == []
    reading.join(30)
    assert len(lines) == 1
    assert "read again" in lines[0]
