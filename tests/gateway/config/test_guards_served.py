"""A server with several guards: the file names them, tenants and keys choose, SIGHUP changes any of them."""

import asyncio

import httpx2
import pytest
from served import save_strict
from serving import CHAT, ask, events_of, text_of
from test_config import written
from test_reload import file_of, reloaded, with_links

from lockgate.cli import main
from lockgate.decisions import open_log
from lockgate.errors import ConfigError
from lockgate.gateway.config import apply_config, read_config
from lockgate.tenants import Settings, Tenants

pytestmark = pytest.mark.anyio
FILE = """listen: {{port: 0}}
guard: {guard}
guards: {{strict: strict, kids: {kids}}}
operations: {{path: operations.db}}
keys: {{team: {{file: team.key, guard: {team}}}}}
"""


def failed(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("guards: [strict]\n", "guards: "),
        ("guards: {strict: 5}\n", "guards.strict: "),
        ("guards: {'a b': x}\n", "guards.a b"),
        ("guards: {default: x}\n", "guards.default: this is the name of `guard`"),
        ("mode: off\nguards: {strict: x}\n", "leave out routes, conversations, campaigns, guards"),
        (
            "keys: {a: {env: TEAM_KEY, guard: kids}}\n",
            "keys.a.guard: expected the name of one of the `guards`",
        ),
        (
            "guards: {strict: x}\nkeys: {a: {env: TEAM_KEY, gard: strict}}\n",
            "keys.a.gard: is not a known key",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_field(tmp_path, text, said) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_keys_name_guards_of_the_file_or_the_default_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-a")
    monkeypatch.setenv("B_KEY", "sk-b")
    monkeypatch.setenv("C_KEY", "sk-c")
    keys = "a: {env: A_KEY, guard: kids}, b: {env: B_KEY, guard: default}, c: {env: C_KEY}"
    path = written(tmp_path, f"guards: {{kids: kids}}\nkeys: {{{keys}}}\n")
    assert apply_config(read_config(path), path).of_keys == {"a": "kids", "b": "default"}


async def ask_as(client: httpx2.AsyncClient, key: str) -> str:
    """Return the text of an answer. The strict guard lets none leave."""
    headers = {"Authorization": f"Bearer {key}"}
    response = await client.post(CHAT, json=ask(stream=True, max_tokens=4), headers=headers)
    return text_of(events_of(response)) if response.status_code == 200 else str(response.status_code)


@pytest.mark.slow
async def test_each_tenant_has_its_guard_and_sighup_changes_any_of_them(
    preloaded, folders, tmp_path, capsys
) -> None:
    save_strict(folders, tmp_path / "stern")
    link, new, mild = tmp_path / "strict", tmp_path / "new", folders / "guard"
    link.symlink_to(tmp_path / "stern")

    def text(guard=mild, kids=mild, team="strict") -> str:
        return FILE.format(guard=guard, kids=kids, team=team)

    def turn(target) -> None:
        new.symlink_to(target)
        new.replace(link)

    (tmp_path / "team.key").write_text("sk-team-of-the-config")
    path, keys = file_of(tmp_path, text()), {"team": "sk-team-of-the-config"}
    with Tenants(tmp_path / "operations.db") as tenants:
        for name, guard in (("acme", None), ("other", "strict"), ("third", "kids"), ("lost", "nowhere")):
            tenants.add_tenant(name, Settings(guard=guard))
            keys[name] = tenants.create_key(name, "k")[1]
    said = failed(capsys, "tenants", "set", "acme", "--guard", "nowhere", "--config", path)
    assert f"--guard nowhere: {path} has default, strict, kids" in said

    with with_links(preloaded, folders, path) as command:
        line = command.first_line()
        assert "for some strict, kids" in line
        async with httpx2.AsyncClient(base_url=line.split()[3], timeout=60) as client:

            async def heard() -> dict[str, bool | str]:
                found = dict(
                    zip(
                        keys,
                        await asyncio.gather(*(ask_as(client, key) for key in keys.values())),
                        strict=True,
                    )
                )
                assert found.pop("lost") == "503"
                return {name: bool(words) for name, words in found.items()}

            assert await heard() == {"team": False, "acme": True, "other": False, "third": True}
            models = [
                (await client.get("/v1/models", headers={"Authorization": f"Bearer {keys[name]}"})).json()
                for name in ("acme", "other")
            ]
            names = [one["data"][0]["lockgate"]["guard"]["name"] for one in models]
            assert names == ["guard", "stern"]

            turn(mild)
            assert "; guard strict: guard (" in await reloaded(command, "has taken over from stern (")
            assert await heard() == {"team": True, "acme": True, "other": True, "third": True}

            path.write_text(text(kids="nowhere"))
            line = await reloaded(command, "nothing has changed: guards.kids: ")
            assert "holds no guard" in line
            turn(tmp_path / "stern")
            line = await reloaded(command, "nothing else has changed: guards.kids: ")
            assert "; guard strict: stern (" in line
            path.write_text(text(kids="stern", team="default"))
            await reloaded(command, "; guard kids: stern (")
            assert await heard() == {"team": True, "acme": True, "other": False, "third": False}

            path.write_text(text().replace("kids:", "children:"))
            await reloaded(command, "nothing has changed: ")
            assert "guards: another name needs a restart" in command.errors.read_text()
            told = (await client.get("/readyz")).json()
    assert told["problems"] == ["guard nowhere: a tenant needs it, and this server has none"]
    assert {name: one["guard"]["name"] for name, one in told["guards"].items()} == {
        "strict": "stern", "kids": "stern",
    }  # fmt: skip
    with open_log(tmp_path / "log.db") as log:
        changes = [stored.record for stored in log.records(kinds=["guard"])]
        assert log.verify().ok
    assert [change["guard"] for change in changes] == ["strict", "strict", "kids"]
    main_out = capsys.readouterr()
    assert main_out.err == ""
    with pytest.raises(SystemExit):
        main(["log", "tail", str(tmp_path / "log.db")])
    assert "  guard kids: guard (" in capsys.readouterr().out


async def test_a_guard_that_cannot_be_loaded_is_said_with_its_field(folders, tmp_path, capsys) -> None:
    for name, folder in (("kids", tmp_path / "nowhere"), ("strict", tmp_path)):
        path = file_of(
            tmp_path, f"listen: {{port: 0}}\nguard: {folders / 'guard'}\nguards: {{{name}: {folder}}}\n"
        )
        words = ("--backbone", folders / "model", "--decisions", tmp_path / "log.db", "--threads", "1")
        assert f"{path}: guards.{name}: " in failed(capsys, "serve", "--config", path, *words)
