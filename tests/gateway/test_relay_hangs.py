"""A guard that holds text until it has read more never waits for a relay that waits for the guard."""

import asyncio
import json
import math
from types import SimpleNamespace

import pytest
from given import given_run
from relaying import relayed, told_by, transported
from scripted_upstream import DONE, Reply, delta, event
from serving import CHAT, ask, decisions_of, events_of, eventually, scoring_for, text_of
from staging import staged
from test_given import BACKBONE, HEAD, smoothed

from lockgate.cascade import Cascade
from lockgate.gateway.upstream._chat import ChatDialect
from lockgate.gateway.upstream._relay import Relay

pytestmark = pytest.mark.anyio
# One block that no answer here fills, so nothing leaves before the end.
HELD = Cascade(escalate=-math.inf, flag=0.0, weight=0.0, stride=100_000)
END = [event(delta(0, "stop")), DONE]


def held(make_gateway):
    scoring, made = staged(BACKBONE, HEAD, HELD)
    gateway = make_gateway(BACKBONE, scoring)
    made[0].constant = -1.0
    return gateway


async def answer_of(gateway, parts, **fields):
    async with asyncio.timeout(30), transported(gateway, parts) as client:
        return await client.post(CHAT, json=ask("why so", stream=True, **fields))


@pytest.mark.parametrize(
    "texts",
    {
        "many pieces": [" lock"] * 300,
        "many characters": [" lock" * 1_000] * 3,
        "nothing behind a word": [" lock", *[""] * 300],
    }.items(),
    ids=lambda found: found[0],
)
async def test_text_that_waits_for_the_end_does_not_keep_the_end_away(make_gateway, texts) -> None:
    parts = [event(delta(content=text)) for text in texts[1]]
    response = await answer_of(held(make_gateway), [*parts, *END])
    assert text_of(events_of(response)) == "".join(texts[1])


async def test_a_choice_that_waits_does_not_keep_another_one_away(make_gateway) -> None:
    parts = [event(delta(0, content=" lock")), *[event(delta(0, content=""))] * 300]
    parts += [event(delta(1, content=" hold")), event(delta(1, "stop")), *END]
    events = events_of(await answer_of(held(make_gateway), parts, n=2))
    assert (text_of(events, 0), text_of(events, 1)) == (" lock", " hold")


async def test_a_last_word_that_would_flag_does_not_keep_the_end_away(make_gateway) -> None:
    answer = "the lock holds the water"
    *before, last = smoothed("why so", answer)
    assert last > max(before), "the word was chosen for this"
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, (last + max(before)) / 2))
    parts = [event(delta(content=answer)), *[event(delta(content=""))] * 300, *END]
    response = await answer_of(gateway, parts)
    assert "water" not in response.text
    assert [line["decision"] for line in decisions_of(gateway)] == ["halt"]


async def test_what_a_stopped_choice_has_left_does_not_keep_the_end_away(make_gateway) -> None:
    worse, better = sorted(
        ["the lock holds", "the water runs"], key=lambda text: max(smoothed("why so", text)), reverse=True
    )
    cut = (max(smoothed("why so", worse)) + max(smoothed("why so", better))) / 2
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, cut))
    usage = {
        **delta(),
        "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9},
    }
    parts = [event(delta(0, content=worse)), *[event(delta(0, content=f" {word}")) for word in "abc"]]
    parts += [event(delta(1, content=better)), event(delta(0, "stop")), event(delta(1, "stop"))]
    response = await answer_of(
        gateway, [*parts, event(usage), DONE], n=2, stream_options={"include_usage": True}
    )
    events = events_of(response)
    assert text_of(events, 1) == better
    assert sorted(line["decision"] for line in decisions_of(gateway)) == ["halt", "pass"]
    assert response.text.endswith(DONE.decode())
    assert any(found.get("usage") for found in events)


async def test_many_events_without_text_come_first(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    parts = [event(delta(content=text)) for text in [*[""] * 300, " lock"]]
    assert text_of(events_of(await answer_of(gateway, [*parts, *END]))) == " lock"


async def test_an_answer_begins_before_its_first_text(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    async with told_by(gateway, Reply([event(delta(role="assistant")), 30.0])) as (told, _):
        await eventually(lambda: "assistant" in told.text)


@pytest.mark.parametrize(
    "chunk",
    [delta(content=" lock"), delta(content=" lock" * 400), delta(content=""), {**delta(), "choices": []}],
    ids=["words", "long texts", "no text", "no choice"],
)
async def test_a_client_that_takes_nothing_stops_the_pump(chunk) -> None:
    """Nobody takes pieces out of the relay, although the guard has read all text."""
    job = given_run(BACKBONE, "why").job
    read = 0

    async def endless():
        nonlocal read
        while read < 5_000:
            read += 1
            yield SimpleNamespace(event="", data=json.dumps(chunk))

    def told(_, choice, text):
        characters.append(text)
        job.caught_up(choice, sum(map(len, characters)))

    characters: list[str] = []
    transcript = ChatDialect().open(ChatDialect().read_request(ask(), "refuse", 1))
    pump = asyncio.ensure_future(Relay(SimpleNamespace(give=told), job, transcript).pump(endless()))
    for _ in range(20):
        await asyncio.sleep(0)
    pump.cancel()
    assert 0 < read <= 256


async def test_events_without_text_can_not_fill_the_memory(make_gateway, monkeypatch) -> None:
    monkeypatch.setattr("lockgate.gateway.upstream._relay.MOST_HELD", 400)
    gateway = held(make_gateway)
    endless = Reply([event(delta(content=" lock")), *[event(delta(content=""))] * 1_000, 30.0])
    async with asyncio.timeout(30), relayed(gateway, endless) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert '"code":"upstream_malformed"' in response.text
    assert "lock" not in response.text
