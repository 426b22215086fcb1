"""Several guards in one server: each tenant's requests are judged by its own guard, and by no other."""

import asyncio
import json
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from given import give
from hypothesis import given, settings
from hypothesis import strategies as st
from keyholders import Inline, Moment
from logs import decisions_in
from models import random_head
from relaying import relayed
from remote_model import LocalModel, remote_stepper
from scripted_upstream import Reply, chat_stream
from serving import CHAT, ask, client_for, decisions_of, events_of, eventually, scoring_for, text_of
from staging import staged, until
from test_conversations import ANSWER as SAID
from test_conversations import HEAD, MEMORY, PROMPT
from test_handover import (
    ANSWER,
    BACKBONE,
    BOTH,
    OTHER,
    PROBE,
    TEXTS,
    alone,
    asked,
    guard,
    same,
    seen_in,
)
from test_served_metrics import read, value
from test_tenants_apart import FLAG, MARGIN

from lockgate.decisions import LogOptions
from lockgate.errors import ConfigError
from lockgate.gateway import Conversations, EngineOptions, Gateway, GatewayOptions
from lockgate.gateway._clients import Client
from lockgate.gateway._errors import ApiError
from lockgate.gateway._guards import TOLD_SECONDS, Guards
from lockgate.tenants import Settings, Tenants

pytestmark = pytest.mark.anyio
# Each tenant's guard: the name in the config, and what kind it is.
NAMES = {"acme": None, "other": "strict", "third": "kids"}
KINDS = {"acme": PROBE, "other": OTHER, "third": BOTH}
ALL = "".join(ANSWER)


def gateway_in(folder, tenants=None, kinds=KINDS, **options) -> Gateway:
    """A gateway whose default guard is the first of `kinds`."""
    engine = EngineOptions(**{name: options.pop(name) for name in ("max_streams", "mode") if name in options})
    chosen = GatewayOptions(
        log=LogOptions(Path(folder) / "decisions.db"), engine=engine, tenants=tenants, **options
    )
    first, *more = kinds.values()
    gateway = Gateway(BACKBONE, guard(first), chosen, about(first))
    for name, kind in zip([name for name in NAMES.values() if name], more, strict=False):
        gateway._add(name, guard(kind)).about_guard = about(kind)
    return gateway


def about(kind: str) -> dict:
    return {"name": kind, "sha256": kind, "calibrated": False, "budget": None}


@contextmanager
def running(folder, **options):
    gateway = gateway_in(folder, **options)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.close()


def client_of(tenant: str) -> Client:
    return Client(f"tenant {tenant}", tenant, "key", Settings(guard=NAMES[tenant]))


runs_of = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(TEXTS), st.sampled_from([1, 2]), st.booleans()),
    min_size=2,
    max_size=7,
)


@settings(max_examples=5, deadline=None)
@given(wanted=runs_of, parts=st.integers(0, len(ANSWER)))
def test_answers_at_the_same_time_are_each_that_of_their_own_guard(wanted, parts) -> None:
    """Served and given answers of three guards run at once. Each equals that of its guard alone."""
    runs = [asked(number, *one[1:3], is_given=one[3]) for number, one in enumerate(wanted)]
    with TemporaryDirectory() as folder:
        with running(folder, max_streams=2) as gateway:
            engines = [gateway.of(client_of(tenant)).engine for tenant, *_ in wanted]
            for run, engine, (tenant, *_) in zip(runs, engines, wanted, strict=True):
                run.job.tenant = tenant
                engine.submit(run.job)
            for part in (slice(parts), slice(parts, None)):
                for run, engine in zip(runs, engines, strict=True):
                    for choice in range(run.job.n if run.job.intakes else 0):
                        for text in ANSWER[part]:
                            engine.give(run.job, choice, text)
            for run, engine in zip(runs, engines, strict=True):
                if run.job.intakes:
                    for choice in range(run.job.n):
                        engine.end_given(run.job, choice, "stop")
                run.finish()
        log = decisions_in(Path(folder) / "decisions.db")
    assert BACKBONE.tap is None
    assert len(log) == sum(run.job.n for run in runs)
    for record in log:
        number = int(record["id"].removeprefix("job-"))
        tenant, text, n, is_given = wanted[number]
        assert (record["tenant"], record["guard"]) == (tenant, KINDS[tenant])
        found = seen_in({**record, "tenant": None}, runs[number])
        assert same(found, alone(KINDS[tenant], text, n, is_given)[record["choice"]])


class World:
    """A server with three tenants of different guards, and what its clients get."""

    def __init__(self, gateway: Gateway, client, upstream) -> None:
        self.gateway, self.client, self.upstream = gateway, client, upstream
        self.keys: dict[str, str] = {}

    def add(self, tenants: Tenants, given=NAMES) -> None:
        for name, named in given.items():
            tenants.add_tenant(name, Settings(guard=named))
            _, self.keys[name] = tenants.create_key(name, "k")

    def headers(self, tenant: str | None) -> dict[str, str]:
        return {} if tenant is None else {"Authorization": f"Bearer {self.keys[tenant]}"}

    async def post(self, tenant: str | None, path: str, body: dict):
        return await self.client.post(path, json=body, headers=self.headers(tenant))

    async def ask(self, tenant: str | None, what: str, text: str):
        """Ask something. Return what of the answer depends on the guard alone."""
        if what == "models":
            found = await self.client.get("/v1/models", headers=self.headers(tenant))
            return found.json() if self.upstream else found.json()["data"][0]["lockgate"]
        if what == "moderation":
            found = await self.post(tenant, "/v1/moderations", {"input": [text, ALL]})
            return found.json()["results"], found.headers["x-lockgate-judged-as"]
        if what == "decision":
            messages = [*ask(text)["messages"], {"role": "assistant", "content": ALL}]
            found = (await self.post(tenant, "/v1/decisions", {"messages": messages})).json()
            return {name: found[name] for name in ("decision", "enforced", "stage", "category", "refusal")}
        if what == "stream":
            events = events_of(await self.post(tenant, CHAT, ask(text, stream=True, max_tokens=12)))
            refusals = [one["delta"].get("refusal") for event in events for one in event["choices"]]
            return (
                text_of(events),
                events[-1]["choices"][0]["finish_reason"],
                [one for one in refusals if one],
            )
        body = (await self.post(tenant, CHAT, ask(text, max_tokens=12))).json()
        return body["choices"][0]["message"], body["choices"][0]["finish_reason"]


@asynccontextmanager
async def world_of(gateway: Gateway, *, relays: bool):
    if not relays:
        async with client_for(gateway) as client:
            yield World(gateway, client, None)
        return
    stream, whole = chat_stream([*ANSWER]), {"choices": [choice_of(ALL)], "id": "up-1", "model": "big"}
    kinds = {True: Reply([stream]), False: Reply([json.dumps(whole).encode()], kind="application/json")}
    async with relayed(gateway, kinds[True]) as (client, upstream):
        upstream.choose = lambda request: kinds[bool(request.get("stream"))]
        yield World(gateway, client, upstream)


def choice_of(text: str) -> dict:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


WHATS = ("stream", "whole", "decision", "moderation", "models")


def told_in(records) -> Counter:
    """What the log has, without ids, times and tenants."""
    kept = ("guard", "decision", "enforced", "category", "prompt_tokens", "completion_tokens", "verdicts")
    return Counter(tuple(record[name] for name in kept) for record in records)


@cache
def seen_alone(kind: str, what: str, text: str, relays: bool):
    """The same request to a server that has this guard alone, and its records."""

    async def run(folder):
        async with world_of(gateway_in(folder, kinds={"acme": kind}), relays=relays) as world:
            return await world.ask(None, what, text)

    with TemporaryDirectory() as folder:
        found = asyncio.run(run(folder))
        return found, told_in(decisions_in(Path(folder) / "decisions.db"))


@pytest.mark.slow
@pytest.mark.parametrize("relays", [False, True])
@settings(max_examples=4, deadline=None)
@given(
    wanted=st.lists(
        st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(WHATS), st.sampled_from(TEXTS)),
        min_size=2,
        max_size=8,
    )
)
def test_no_tenant_meets_the_guard_of_another(relays, wanted) -> None:
    """Requests of three tenants at once, by any route: each gets what a server with its guard alone says."""
    expected = [seen_alone(KINDS[tenant], *rest, relays) for tenant, *rest in wanted]

    async def run(folder):
        moment = Moment()
        tenants = Tenants(folder / "operations.db", clock=moment, ticks=moment, background=Inline())
        async with world_of(gateway_in(folder, tenants, max_streams=2), relays=relays) as world:
            world.add(tenants)
            return await asyncio.gather(*(world.ask(*one) for one in wanted))

    with TemporaryDirectory() as name:
        found = asyncio.run(run(Path(name)))
        records = decisions_in(Path(name) / "decisions.db")
    for (tenant, *_), got, (alone_got, _) in zip(wanted, found, expected, strict=True):
        assert got == alone_got
        others = {f"refused by {kind}" for kind in KINDS.values()} - {f"refused by {KINDS[tenant]}"}
        assert not [one for one in others if one in json.dumps(got)]
    for tenant in NAMES:
        told = sum(
            (one[1] for asking, one in zip(wanted, expected, strict=True) if asking[0] == tenant), Counter()
        )
        assert told_in(record for record in records if record["tenant"] == tenant) == told


MESSAGES = ask(TEXTS[0])["messages"]
CALLS = {
    CHAT: ask(TEXTS[0]),
    "/v1/decisions": {"messages": MESSAGES},
    "/v1/moderations": {"input": TEXTS[0]},
    "/beta/litellm_basic_guardrail_api": {"input_type": "request", "structured_messages": MESSAGES},
}


@pytest.mark.parametrize("relays", [False, True])
async def test_a_guard_that_is_not_there_is_replaced_by_no_other(relays, tmp_path, monkeypatch) -> None:
    moment = Moment()
    tenants = Tenants(tmp_path / "operations.db", clock=moment, ticks=moment, background=Inline())
    gateway = gateway_in(tmp_path, tenants, block_input_status=400)
    monkeypatch.setattr(gateway.guards, "_ticks", moment)
    calls = dict(CALLS)
    if relays:
        calls |= {
            "/v1/messages": {**ask(TEXTS[0]), "max_tokens": 9},
            "/v1/completions": {"model": "any", "prompt": "x"},
            "/v1/responses": {"model": "any", "input": "x"},
        }
    async with world_of(gateway, relays=relays) as world:
        world.add(tenants, {"acme": None, "lost": "secret-guard"})
        for path, body in calls.items():
            answer = await world.post("lost", path, body)
            assert answer.status_code == 503
            assert "secret-guard" not in answer.text
            if path != "/v1/messages":  # whose errors have no code
                assert answer.json()["error"]["code"] == "configuration"
        if not relays:
            for path in ("/v1/models", f"/v1/models/{gateway.model_id}"):
                assert (await world.client.get(path, headers=world.headers("lost"))).status_code == 503
        if world.upstream:
            assert world.upstream.requests == []
        found = (await world.client.get("/readyz")).json()
        assert found["status"] == "degraded"
        assert found["problems"] == ["guard secret-guard: a tenant needs it, and this server has none"]
        assert (await world.post("acme", CHAT, ask(TEXTS[0], max_tokens=4))).status_code == 200
        moment.now += TOLD_SECONDS + 1
        assert (await world.client.get("/readyz")).json()["status"] == "ready"
    [record] = decisions_of(gateway)
    assert (record["tenant"], record["guard"]) == ("acme", PROBE)


async def test_a_setting_that_changes_holds_for_the_next_request(tmp_path) -> None:
    moment = Moment()
    tenants = Tenants(tmp_path / "operations.db", clock=moment, ticks=moment, background=Inline())
    gateway = gateway_in(tmp_path, tenants)
    async with world_of(gateway, relays=False) as world:
        world.add(tenants, {"acme": None})
        for named, kind in ((None, PROBE), ("strict", OTHER), ("default", PROBE), ("kids", BOTH)):
            tenants.change_tenant("acme", lambda before, named=named: Settings(guard=named))
            moment.now += 60
            assert (await world.ask("acme", "models", ""))["guard"]["name"] == kind


async def test_a_key_of_the_config_has_its_guard_too(tmp_path) -> None:
    gateway = gateway_in(tmp_path, keys={"team": "sk-team", "trial": "sk-trial"})
    gateway.guards.of_keys = {"team": "strict"}
    async with client_for(gateway) as client:
        for key, kind in (("sk-team", OTHER), ("sk-trial", PROBE)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.post(CHAT, json=ask(max_tokens=4), headers=headers)).status_code == 200
            assert decisions_of(gateway)[-1]["guard"] == kind


def test_the_names_of_keys_are_not_those_of_tenants(tmp_path) -> None:
    """A tenant's key, and a client without a key, never get the guard of a key of the config."""
    gateway = Gateway(BACKBONE, guard(PROBE), GatewayOptions(log=LogOptions(tmp_path / "decisions.db")))
    guards = Guards(gateway)
    guards.of_keys = {"k": "nowhere", "": "nowhere"}
    assert guards.of(Client("a", "acme", "k")) is gateway
    assert guards.of(Client("127.0.0.1")) is gateway
    with pytest.raises(ApiError):
        guards.of(Client("a", "", "k"))
    gateway.engine.close()


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_a_second_stage_out_of_order_is_nothing_to_the_other_guards(fault, tmp_path) -> None:
    scoring, made = staged(BACKBONE, random_head(BACKBONE, 2))
    gateway = Gateway(BACKBONE, guard(PROBE), GatewayOptions(log=LogOptions(tmp_path / "decisions.db")))
    gateway._add("kids", replace(scoring, guard=BOTH))
    gateway._add("strict", guard(OTHER))
    gateway.guards.find("kids").engine.verdicts.timeout = 0.2
    async with client_for(gateway) as client:
        engines = {name: one.engine for name, one in gateway.guards.named.items()}
        open_ones = {name: asked(0, TEXTS[0], 1, is_given=True) for name in ("default", "strict")}
        for name, run in open_ones.items():
            engines[name].submit(run.job)
            engines[name].give(run.job, 0, ANSWER[0])
        if fault == "hangs":
            made[0].stuck.set()
        else:
            made[0].broken = RuntimeError()
        broken = asked(1, TEXTS[1], 1, is_given=True)
        engines["kids"].submit(broken.job)
        give(engines["kids"], broken, ANSWER)
        await asyncio.to_thread(broken.finish)
        assert broken.end.decision == "error"
        told = (await client.get("/readyz")).json()
        made[0].stuck.clear()
        made[0].go.set()
        for name, run in open_ones.items():
            give(engines[name], run, ANSWER[1:])
            await asyncio.to_thread(run.finish)
    assert (told["status"], told["faults"]["total"]) == ("degraded", 0)
    assert len(told["problems"]) == 1
    assert told["problems"][0].startswith("guard kids: second stage: ")
    assert {name: one["faults"]["total"] for name, one in told["guards"].items()} == {"kids": 1, "strict": 0}
    records = {record["guard"]: record for record in decisions_of(gateway)}
    assert records[BOTH]["decision"] == "error"
    for name, kind in (("default", PROBE), ("strict", OTHER)):
        assert same(seen_in(records[kind], open_ones[name]), alone(kind, TEXTS[0], 1, True)[0])


def test_answers_of_a_guard_go_on_while_another_one_changes(tmp_path) -> None:
    """The exchange waits for the answers of its own guard alone, and leaves the others' alone."""
    with running(tmp_path) as gateway:
        first, strict = gateway.engine, gateway.guards.find("strict").engine
        stays, leaves = asked(0, TEXTS[0], 1, is_given=True), asked(1, TEXTS[1], 1, is_given=True)
        for engine, run in ((first, stays), (strict, leaves)):
            engine.submit(run.job)
            engine.give(run.job, 0, ANSWER[0])
        until(lambda: strict.active_streams == 1)
        change = threading.Thread(target=strict.exchange, args=(replace(guard(BOTH), guard="new"),))
        change.start()
        until(lambda: strict._handover.next is not None)
        during = asked(2, TEXTS[1], 2, is_given=False)
        first.submit(during.job)
        assert during.finish().end.decision == "pass"
        give(strict, leaves, ANSWER[1:])
        leaves.finish()
        change.join(30)
        assert strict.scoring.guard == "new"
        assert first.scoring.guard == PROBE
        assert first.active_streams == 1
        after = asked(3, TEXTS[1], 1, is_given=False)
        strict.submit(after.job)
        after.finish()
        give(first, stays, ANSWER[1:])
        stays.finish()
    records = {record["id"]: record for record in decisions_of(gateway)}
    guards = {name: record["guard"] for name, record in records.items()}
    assert guards == {"job-0": PROBE, "job-1": OTHER, "job-2": PROBE, "job-3": "new"}
    assert same(seen_in(records["job-0"], stays), alone(PROBE, TEXTS[0], 1, True)[0])


async def test_the_server_tells_all_guards_by_their_names(tmp_path) -> None:
    gateway = gateway_in(tmp_path)
    async with client_for(gateway) as client:
        run = asked(0, TEXTS[0], 1, is_given=True)
        strict = gateway.guards.find("strict").engine
        strict.submit(run.job)
        await eventually(lambda: strict.active_streams == 1)
        ready, page = (await client.get("/readyz")).json(), read((await client.get("/metrics")).text)
        give(strict, run, ANSWER)
        await asyncio.to_thread(run.finish)
        over = read((await client.get("/metrics")).text)
    assert ready["guard"]["sha256"] == PROBE
    assert {name: one["guard"]["sha256"] for name, one in ready["guards"].items()} == {
        "strict": OTHER, "kids": BOTH,
    }  # fmt: skip
    assert (ready["streams"]["active"], ready["guards"]["strict"]["streams"]["active"]) == (0, 1)
    bundles = {(one["guard"], one["bundle"]) for one, _ in page["lockgate_guard_info"]}
    assert bundles == {("default", PROBE), ("strict", OTHER), ("kids", BOTH)}
    assert value(page, "lockgate_guard_streams", guard="strict", state="active") == 1
    assert value(page, "lockgate_streams", state="active") == 1
    limit = sum(engine.kv_tokens for engine in gateway.guards.engines)
    assert value(page, "lockgate_kv_tokens", state="limit") == limit
    assert value(page, "lockgate_guard_ready", guard="kids") == 1
    [(labels, count)] = over["lockgate_guard_exchanges_total"]
    assert (labels["guard"], count) == ("strict", 1)
    assert sum(count for _, count in over["lockgate_exchanges_total"]) == 1


async def test_the_memory_of_conversations_is_for_the_default_guard(tmp_path) -> None:
    """Both guards come as close to the same threshold. Only under the first one that adds up."""
    known, scoring = Conversations(MEMORY), scoring_for(BACKBONE, HEAD, FLAG)
    options = GatewayOptions(
        log=LogOptions(tmp_path / "decisions.db"), keys={"a": "sk-a", "b": "sk-b"}, conversations=known
    )
    gateway = Gateway(BACKBONE, scoring, options)
    gateway._add("strict", replace(scoring_for(BACKBONE, HEAD, FLAG), guard="strict"))
    gateway.guards.of_keys = {"b": "strict"}
    exchange = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": SAID}]
    async with client_for(gateway) as client:
        for key in ("b", "a", "b", "a"):
            headers = {"Authorization": f"Bearer sk-{key}", "X-Lockgate-Conversation": "one"}
            await client.post("/v1/decisions", json={"messages": exchange}, headers=headers)
    first, *_, last = [record["lowered"] for record in decisions_of(gateway) if record["key"] == "a"]
    assert (first, last) == (0, pytest.approx(MEMORY.lowered(MEMORY.add(0.0, -MARGIN))))
    assert [record["lowered"] for record in decisions_of(gateway) if record["key"] == "b"] == [0, 0]
    assert len(known) == 1


def test_a_log_that_blocks_halts_the_answers_under_all_guards(tmp_path) -> None:
    with running(tmp_path) as gateway:
        runs = []
        for number, engine in enumerate(gateway.guards.engines):
            run = asked(number, TEXTS[0], 1, is_given=True)
            engine.submit(run.job)
            until(lambda engine=engine: engine.active_streams == 1)
            runs.append(run)
        gateway.decisions.on_block()
        assert {run.finish().end.decision for run in runs} == {"error"}


def test_a_name_is_given_once_and_mode_off_has_no_guards(tmp_path) -> None:
    gateway = gateway_in(tmp_path)
    with pytest.raises(ConfigError, match=r"guards\.strict: there is a guard of this name already"):
        gateway._add("strict", guard(BOTH))
    with pytest.raises(ConfigError, match="guard nowhere: this server has default, strict, kids"):
        gateway.promote(tmp_path, "ada", name="nowhere")
    gateway.close()
    off = Gateway(BACKBONE, None, GatewayOptions(LogOptions(tmp_path / "b.db"), EngineOptions("off")))
    assert off.of(client_of("other")) is off
    head = random_head(BACKBONE)
    scoring = scoring_for(BACKBONE, head)
    make = remote_stepper(BACKBONE, scoring, LocalModel(BACKBONE, head))
    remote = Gateway(BACKBONE, scoring, GatewayOptions(LogOptions(tmp_path / "c.db")), None, make)
    for one in (off, remote):
        with pytest.raises(ConfigError, match=r"guards\.strict: only a model in this process"):
            one.add_guard("strict", None)
        one.close()
