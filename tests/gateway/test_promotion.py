"""A guard takes over in a running server: what the server tells, and what its log has about it."""

import asyncio
import json
from dataclasses import replace

import pytest
from logs import checked
from models import random_head, tiny_backbone
from served import save_guard
from serving import CHAT, ask, client_for, decisions_of, events_of, path_of

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.cascade.memory import Memory
from lockgate.cli import main
from lockgate.cli._serve_run import _announce
from lockgate.constitution import constitution_path, load_constitution
from lockgate.decisions import LogOptions, open_log
from lockgate.errors import BackboneMismatch, ConfigError, GuardError, LockgateError
from lockgate.gateway import Conversations, EngineOptions, Gateway, GatewayOptions
from lockgate.guards import Guard

pytestmark = pytest.mark.anyio


def run(words) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def save(folder, backbone, *, seed=0, flag=1e9, layers=None):
    """A guard for a backbone, in a folder of its own."""
    head = random_head(backbone, seed)
    if layers is not None:
        head = replace(head, layers=layers, weights=head.weights[:, : len(layers)])
    Guard.create(
        name=folder.name,
        backbone=backbone,
        constitution=load_constitution("general-harms"),
        constitution_yaml=constitution_path("general-harms").read_text(),
        head=head,
        thresholds=Thresholds(flag),
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    root = tmp_path_factory.mktemp("promotion")
    save_guard(root)
    return Backbone.load(root / "model")


def gateway_of(folder, backbone, log, *, reads_only=False, **options):
    guard = Guard.load(folder, backbone=backbone)
    chosen = GatewayOptions(log=LogOptions(log), engine=EngineOptions(), **options)
    return Gateway.from_guard(guard, chosen, name=folder.name, reads_only=reads_only)


async def test_a_promotion_is_told_everywhere_and_stands_in_the_chain(backbone, tmp_path, capsys) -> None:
    old = save(tmp_path / "old", backbone)
    new = save(tmp_path / "new", backbone, seed=1, flag=-1e9)
    gateway = gateway_of(old, backbone, tmp_path / "decisions.db")
    async with client_for(gateway) as client:
        first = await client.post(CHAT, json=ask(stream=True, max_tokens=8))
        change = await asyncio.to_thread(gateway.promote, new, "ada")
        second = await client.post(CHAT, json=ask(stream=True, max_tokens=8))
        told = (await client.get("/readyz")).json()["guard"]
        model = (await client.get("/v1/models")).json()["data"][0]["lockgate"]["guard"]
        metrics = (await client.get("/metrics")).text
        back = await asyncio.to_thread(gateway.promote, old, "ada")
    assert events_of(first)[-1]["choices"][0]["finish_reason"] == "length"
    assert events_of(second)[-1]["choices"][0]["finish_reason"] == "content_filter"
    hashes = [change.before.sha256, change.after.sha256]
    assert told == model
    assert (told["name"], told["sha256"], told["calibrated"]) == ("new", hashes[1], False)
    assert f'guard="{hashes[1]}"' in metrics
    assert [record["guard"] for record in decisions_of(gateway)] == hashes
    assert (change.before.name, change.after.name, change.after.threshold) == ("old", "new", -1e9)
    assert (back.before, back.after) == (change.after, change.before)

    log = path_of(gateway)
    assert checked(log).decisions == 2
    with open_log(log) as opened:
        kinds = [stored.kind for stored in opened.records(kinds=["decision", "guard"])]
        [noted, _] = [stored.record for stored in opened.records(kinds=["guard"])]
    assert kinds == ["decision", "guard", "decision", "guard"]
    assert noted["by"] == "ada"
    assert [noted[side]["sha256"] for side in ("before", "after")] == hashes
    run(["log", "tail", str(log)])
    assert f"guard old ({hashes[0][:12]}, uncalibrated) -> new ({hashes[1][:12]}, uncalibrated)  by ada" in (
        capsys.readouterr().out
    )
    run(["log", "export", str(log), "--guards"])
    assert json.loads(capsys.readouterr().out.splitlines()[0])["id"] == change.id
    run(["log", "export", str(log)])
    assert len(capsys.readouterr().out.splitlines()) == 2
    run(["log", "verify", str(log)])


async def test_a_guard_that_does_not_suit_the_server_changes_nothing(backbone, tmp_path) -> None:
    old = save(tmp_path / "old", backbone)
    new = save(tmp_path / "new", backbone, seed=1)
    damaged = save(tmp_path / "damaged", backbone, seed=2)
    (damaged / "probe.safetensors").write_bytes(b"nothing")
    foreign = save(tmp_path / "foreign", tiny_backbone("llama"))
    other = Guard.load(new, backbone=Backbone.load(backbone.source))
    gateway = gateway_of(old, backbone, tmp_path / "decisions.db")
    async with client_for(gateway):
        before = gateway.about_guard

        async def refused(guard, said, kind=LockgateError) -> None:
            with pytest.raises(kind, match=said):
                await asyncio.to_thread(gateway.promote, guard, "config")
            assert gateway.about_guard is before

        await refused(tmp_path / "nowhere", "holds no guard", GuardError)
        await refused(damaged, "damaged", GuardError)
        await refused(foreign, "made for backbone", BackboneMismatch)
        await refused(other, "not loaded onto this server's backbone")
        gateway.decisions.failure = "the disk is full"
        await refused(new, "could not be recorded")
        gateway.decisions.failure = None
        await asyncio.to_thread(gateway.promote, new, "config")
    with open_log(path_of(gateway)) as opened:
        assert len(list(opened.records(kinds=["guard"]))) == 1


async def test_what_was_made_for_the_old_guard_does_not_go_on_under_another(backbone, tmp_path) -> None:
    old = save(tmp_path / "old", backbone)
    new = save(tmp_path / "new", backbone, seed=1)
    record = Guard.load(old, backbone=backbone).record
    memory = Conversations(Memory(0.1, 0.9, 1.0), made_for=(record.measure, record.decides.flag))
    gateway = gateway_of(old, backbone, tmp_path / "decisions.db", conversations=memory)
    async with client_for(gateway):
        with pytest.raises(LockgateError, match="memory of conversations"):
            await asyncio.to_thread(gateway.promote, new, "config")
        await asyncio.to_thread(gateway.promote, old, "config")


async def test_a_server_that_has_left_out_layers_takes_no_probe_that_reads_them(backbone, tmp_path) -> None:
    low = save(tmp_path / "low", backbone, layers=(0,))
    high = save(tmp_path / "high", backbone, layers=(0, 2))
    gateway = gateway_of(low, backbone, tmp_path / "decisions.db", reads_only=True)
    async with client_for(gateway):
        with pytest.raises(LockgateError, match="reads layer 2"):
            await asyncio.to_thread(gateway.promote, high, "config")
        same = save(tmp_path / "same", backbone, layers=(0,), seed=5)
        change = await asyncio.to_thread(gateway.promote, same, "config")
    assert change.after.name == "same"


async def test_each_guard_of_a_server_changes_alone(backbone, tmp_path, capsys) -> None:
    old, strict = save(tmp_path / "old", backbone), save(tmp_path / "strict", backbone, seed=1)
    new = save(tmp_path / "new", backbone, seed=2, flag=-1e9)
    gateway = gateway_of(old, backbone, tmp_path / "decisions.db")
    gateway.add_guard("strict", Guard.load(strict, backbone=backbone), shown="strict")
    with pytest.raises(ConfigError, match=r"guards\.far: was not loaded onto this server's backbone"):
        gateway.add_guard("far", Guard.load(strict, backbone=Backbone.load(backbone.source)))
    async with client_for(gateway) as client:
        change = await asyncio.to_thread(gateway.promote, new, "ada", name="strict")
        with pytest.raises(ConfigError, match="guard kids: this server has default, strict"):
            await asyncio.to_thread(gateway.promote, new, "ada", name="kids")
        told = (await client.get("/readyz")).json()
        response = await client.post(CHAT, json=ask(max_tokens=4))
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert (change.guard, change.before.name, change.after.name) == ("strict", "strict", "new")
    assert (told["guard"]["name"], told["guards"]["strict"]["guard"]["name"]) == ("old", "new")
    run(["log", "tail", str(path_of(gateway))])
    assert "  guard strict: strict (" in capsys.readouterr().out
    for as_json in (False, True):
        _announce("http://here", "old", gateway, as_json=as_json)
    line, told = capsys.readouterr().out.splitlines()
    assert "(guard old, for some strict, mode enforce, UNCALIBRATED" in line
    assert json.loads(told)["guards"]["strict"]["name"] == "new"
    [record] = decisions_of(gateway)
    assert record["guard"] == Guard.load(old, backbone=backbone).sha256


async def test_a_server_in_front_of_upstreams_reads_the_layers_of_each_guard(backbone, tmp_path) -> None:
    low, high = save(tmp_path / "low", backbone, layers=(0,)), save(tmp_path / "high", backbone)
    gateway = gateway_of(low, backbone, tmp_path / "decisions.db", reads_only=True)
    gateway.add_guard("deep", Guard.load(high, backbone=backbone))
    depths = [one.backbone.n_layers for one in gateway.guards]
    assert depths == [1, 1 + max(random_head(backbone).layers)]
    gateway.close()
