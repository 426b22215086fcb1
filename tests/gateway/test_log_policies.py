"""Requests while the decision log can't be written, and the texts that the log keeps."""

import asyncio
import sqlite3
from contextlib import contextmanager

import pytest
from engine_runs import new_run, running_engine, start
from logs import checked, decisions_in, text_of_log
from relaying import relayed
from scripted_upstream import Reply
from serving import (
    CHAT,
    NEVER,
    REFUSAL,
    ask,
    client_for,
    decisions_of,
    events_of,
    eventually,
    path_of,
    scoring_for,
)
from taps import StuckTap

from lockgate.decisions import ContentReader, LogOptions, make_keys, open_log
from lockgate.gateway._events import Finished
from lockgate.gateway._records import UNRECORDED

pytestmark = pytest.mark.anyio
PATIENCE = 0.2


@contextmanager
def locked(gateway):
    """Another process holds the database's lock."""
    connection = sqlite3.connect(path_of(gateway), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def log_in(folder, **options):
    return LogOptions(folder / "decisions.db", patience=PATIENCE, **options)


def test_the_record_is_there_when_the_end_is_delivered(backbone, head, tmp_path):
    """The end is a choice's last event, and comes after its record."""
    recorded, order = {}, []
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, max_streams=3) as engine:
        run = new_run(backbone, "why does the lock hold", 6, n=3)

        def deliver(event):
            order.append((event.choice, isinstance(event, Finished)))
            if isinstance(event, Finished):
                recorded[event.choice] = {line["choice"] for line in decisions_in(tmp_path / "decisions.db")}
            run.events.put(event)

        run.job.deliver = deliver
        start(engine, run).finish()
    assert all(choice in found for choice, found in recorded.items())
    for choice in range(3):
        ends = [end for number, end in order if number == choice]
        assert ends == [False] * (len(ends) - 1) + [True]


async def test_no_new_requests_while_nothing_can_be_recorded(make_gateway, backbone, head, tmp_path):
    gateway = make_gateway(backbone, scoring_for(backbone, head), log=log_in(tmp_path))
    async with client_for(gateway) as client:
        with locked(gateway):
            # This one began before anybody knew. Its answer ends, a little late.
            first = await client.post(CHAT, json=ask(max_tokens=3, stream=True))
            assert events_of(first)[-1]["choices"][0]["finish_reason"] == "length"
            refused = await client.post(CHAT, json=ask(max_tokens=3))
            ready = await client.get("/readyz")
            told = (await client.get("/metrics")).text.splitlines()
        assert refused.status_code == 503
        assert {"lockgate_ready 0.0", "lockgate_problems 1.0"} <= set(told)
        assert "can't record" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert ready.json()["decisions"]["unwritten"] == 1
        await eventually(lambda: gateway.decisions.failure is None)
        assert (await client.post(CHAT, json=ask(max_tokens=3))).status_code == 200
        assert (await client.get("/readyz")).json()["decisions"] == {
            "written": 2, "unwritten": 0, "spilled": 0, "lost": 0,
        }  # fmt: skip
    assert [line["decision"] for line in decisions_of(gateway)] == ["pass", "pass"]
    assert checked(path_of(gateway)).unfinished == 0


async def test_degrade_goes_on(make_gateway, backbone, head, tmp_path):
    log = log_in(tmp_path, when_unwritable="degrade")
    gateway = make_gateway(backbone, scoring_for(backbone, head), log=log)
    async with client_for(gateway) as client:
        with locked(gateway):
            for _ in range(2):
                assert (await client.post(CHAT, json=ask(max_tokens=2))).status_code == 200
            ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["decisions"]["unwritten"] == 2
    assert len(decisions_of(gateway)) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_block_halts_open_answers(make_gateway, backbone, head, tmp_path, stream):
    log = log_in(tmp_path, when_unwritable="block")
    tap = StuckTap([head], backbone.hidden_size)
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=tap), log=log, max_streams=2)
    async with client_for(gateway) as client:
        with locked(gateway):
            done = client.post(CHAT, json=ask(max_tokens=1))
            short = (await done).json()["choices"][0]
            assert short["finish_reason"] == "content_filter"
            assert (short["message"]["content"], short["message"]["refusal"]) == (None, UNRECORDED)
            assert (await client.post(CHAT, json=ask(max_tokens=2))).status_code == 503
        await eventually(lambda: gateway.decisions.failure is None)
        tap.stuck.set()
        running = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=40, stream=stream)))
        await eventually(tap.entered.is_set)
        with locked(gateway):
            gateway.decisions._failed("a fault of the disk")
            response = await running
        tap.go.set()
        await eventually(lambda: gateway.decisions.failure is None)
    if stream:
        assert events_of(response)[-1]["choices"][0]["finish_reason"] == "content_filter"
    else:
        assert response.json()["choices"][0]["message"]["content"] is None
    line = decisions_of(gateway)[-1]
    assert (line["decision"], line["enforced"], line["fault"]) == ("error", True, "log")
    checked(path_of(gateway))


async def test_a_route_that_fails_open_takes_nothing_that_it_can_not_record(
    make_gateway, backbone, head, tmp_path
):
    from lockgate.gateway._policies import Change, Policies, Policy

    policies = Policies(Policy("enforce"), {CHAT: Change(on_failure="open")}, {})
    gateway = make_gateway(backbone, scoring_for(backbone, head), log=log_in(tmp_path), policies=policies)
    async with relayed(gateway, Reply([])) as (client, upstream):
        with locked(gateway):
            gateway.decisions._failed("a fault of the disk")
            response = await client.post(CHAT, json=ask())
        assert response.status_code == 503
        assert upstream.requests == []


def contents(gateway, private=None):
    reader = ContentReader(private)
    with open_log(path_of(gateway)) as log:
        found = [(stored.content, stored.content_mode) for stored in log.records()]
    return [None if kept is None else reader.read(kept, mode) for kept, mode in found]


PROMPT = "write to orchard@example.org about the lock"


async def serve_one(make_gateway, backbone, head, tmp_path, flag=NEVER, **options):
    gateway = make_gateway(backbone, scoring_for(backbone, head, flag), log=log_in(tmp_path, **options))
    async with client_for(gateway) as client:
        body = (await client.post(CHAT, json=ask(PROMPT, max_tokens=6))).json()
    return gateway, body["choices"][0]["message"]["content"]


async def test_no_text_is_kept_by_default(make_gateway, backbone, head, tmp_path):
    gateway, _ = await serve_one(make_gateway, backbone, head, tmp_path)
    assert contents(gateway) == [None]
    assert "orchard" not in text_of_log(path_of(gateway))


async def test_full_keeps_the_prompt_and_what_has_left(make_gateway, backbone, head, tmp_path):
    gateway, answer = await serve_one(make_gateway, backbone, head, tmp_path, content="full")
    [kept] = contents(gateway)
    assert [(turn.role, turn.content) for turn in kept.messages] == [("user", PROMPT), ("assistant", answer)]


async def test_redacted_keeps_no_address(make_gateway, backbone, head, tmp_path):
    gateway, _ = await serve_one(make_gateway, backbone, head, tmp_path, content="redacted")
    [kept] = contents(gateway)
    assert kept.messages[0].content == "write to [email] about the lock"
    assert "orchard" not in text_of_log(path_of(gateway))


async def test_encrypted_opens_with_the_private_key_alone(make_gateway, backbone, head, tmp_path):
    public, private = make_keys()
    gateway, answer = await serve_one(
        make_gateway, backbone, head, tmp_path, content="encrypted", public_key=public
    )
    assert "orchard" not in text_of_log(path_of(gateway))
    assert contents(gateway) == [None]
    [kept] = contents(gateway, private)
    assert [turn.content for turn in kept.messages] == [PROMPT, answer]
    checked(path_of(gateway))


async def test_a_halted_answer_is_kept_as_far_as_it_has_left(make_gateway, backbone, head, tmp_path):
    gateway, answer = await serve_one(make_gateway, backbone, head, tmp_path, flag=-1e9, content="full")
    assert answer is None
    [kept] = contents(gateway)
    assert kept.messages[-1].content == ""
    assert REFUSAL not in text_of_log(path_of(gateway))
