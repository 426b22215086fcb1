"""Ends that neither the upstream nor the client asked for: the server stops, a part hangs."""

import asyncio
import math
import time

import pytest
from relaying import relayed, told_by
from scripted_upstream import DONE, Reply, chat_stream, delta, event
from serving import CHAT, ask, decisions_of, events_of, eventually, scoring_for, text_of
from staging import staged
from taps import StuckTap
from test_given import BACKBONE, HEAD

from lockgate.cascade import Cascade

pytestmark = pytest.mark.anyio
SAID = event(delta(content="The lock holds the water back."))
ENDLESS = Reply([SAID * 3, 30.0])
ALWAYS = Cascade(escalate=-math.inf, flag=math.inf, weight=0.0, stride=4)


async def test_at_the_drains_end_a_stream_says_that_it_is_not_whole(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    async with told_by(gateway, ENDLESS) as (told, upstream):
        await eventually(lambda: told.text.count("water") == 3)
        gateway.engine.end_open()
        await eventually(lambda: told.text.endswith(DONE.decode()))
        await eventually(lambda: upstream.open == 0)
    assert '"code":"unavailable"' in told.text
    assert decisions_of(gateway)[0]["decision"] == "cancelled"


async def test_a_server_that_stops_lets_no_held_text_out(make_gateway) -> None:
    """The verdict never comes, so all text is held. The server's end must not set it free."""
    scoring, made = staged(BACKBONE, HEAD, ALWAYS)
    gateway = make_gateway(BACKBONE, scoring)
    made[0].stuck.set()
    async with told_by(gateway, ENDLESS) as (told, _):
        await eventually(lambda: made[0].entered.is_set())
        gateway.engine.end_open()
        await eventually(lambda: '"unavailable"' in told.text)
        made[0].go.set()
    assert "water" not in told.text


@pytest.mark.parametrize("part", ["probe", "second stage"])
async def test_a_part_that_hangs_stops_the_answer(make_gateway, part) -> None:
    if part == "probe":
        tap = StuckTap([HEAD], BACKBONE.hidden_size)
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap), step_timeout=0.3)
        tap.stuck.set()
        go = tap.go
    else:
        scoring, made = staged(BACKBONE, HEAD, ALWAYS)
        gateway = make_gateway(BACKBONE, scoring, verdict_timeout=0.3)
        made[0].stuck.set()
        go = made[0].go
    async with relayed(gateway, ENDLESS) as (client, upstream):
        response = await client.post(CHAT, json=ask(stream=True))
        await eventually(lambda: upstream.open == 0)
        go.set()
    assert "water" not in response.text
    assert "could not be checked" in response.text
    assert decisions_of(gateway)[0]["decision"] == "error"


async def test_a_clock_that_jumps_changes_nothing(make_gateway, monkeypatch) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    true = time.time
    jumps = iter([1e9, -1e9] * 500)
    monkeypatch.setattr(time, "time", lambda: true() + next(jumps))
    async with relayed(gateway, Reply([chat_stream(["The lock", " holds."])])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert text_of(events_of(response)) == "The lock holds."


async def test_a_long_silence_gets_comments(make_gateway, monkeypatch) -> None:
    """Before the upstream's first byte, and between two of its events."""
    monkeypatch.setattr("lockgate.gateway.upstream._answer.LONGEST_SILENCE", 0.1)
    monkeypatch.setattr("lockgate.gateway.upstream._answer.PING_SECONDS", 0.1)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    reply = Reply([0.5, SAID, 0.5, event(delta(0, "stop")), DONE])
    async with relayed(gateway, reply) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    before, _, after = response.text.partition("water")
    assert ": ping" in before
    assert ": ping" in after
    assert "water" in text_of(events_of(response))


async def test_many_streams_end_at_once(make_gateway) -> None:
    """No stream waits for another one's upstream."""
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), max_streams=4, kv_tokens=20_000)
    quick = Reply([chat_stream(["The lock", " holds."])])
    async with relayed(gateway, quick) as (client, _):
        asked = [client.post(CHAT, json=ask(stream=True, max_tokens=32)) for _ in range(6)]
        answers = await asyncio.gather(*asked)
    assert [text_of(events_of(answer)) for answer in answers] == ["The lock holds."] * 6
