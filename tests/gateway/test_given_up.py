"""Answers that are given up: a flag that was found still holds, and what is not whole never looks whole."""

import math

import pytest
from relaying import relayed
from scripted_upstream import STREAM, Reply, chat_body, chat_stream, delta, event
from serving import CHAT, REFUSAL, ask, client_for, decisions_of, eventually, scoring_for
from taps import BrokenTap
from test_given import BACKBONE, HEAD

from lockgate.gateway._given import GivenStepper
from lockgate.gateway._intake import Intake
from lockgate.gateway._jobs import Stream
from lockgate.gateway._policies import Change, Policies
from lockgate.gateway._records import Ending

pytestmark = pytest.mark.anyio
WHOLE = "The lock holds the water back."
OPEN = Policies(routes={CHAT: Change(on_failure="open")})
ENDED = {
    "stops": lambda engine: engine.end_open(),
    "is late": lambda engine: engine._abandon(engine._active, Ending("content_filter", error="time-out")),
}


@pytest.mark.parametrize("policies", [None, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("how", ENDED)
async def test_a_flag_holds_if_the_answer_ends_before_it_is_told(make_gateway, monkeypatch, how, policies):
    """Another thread ends the stream after the flag was noted, and before the engine's thread ends it."""
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, -math.inf), policies=policies)
    note = Stream.note_flag

    def noted(stream):
        note(stream)
        if stream.flagged_at is not None:
            ENDED[how](gateway.engine)

    monkeypatch.setattr(Stream, "note_flag", noted)
    async with relayed(gateway, Reply([chat_stream(["The lock holds", " the water back."])])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert "lock" not in response.text
    assert REFUSAL in response.text
    assert [(line["decision"], line["enforced"]) for line in decisions_of(gateway)] == [("halt", True)]


@pytest.mark.parametrize("mode", ["shadow", "open"])
async def test_an_answer_that_breaks_off_never_looks_whole(make_gateway, mode):
    """Also if it was flagged in shadow mode, or if the guard has failed and the answer went on."""
    if mode == "shadow":
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, -math.inf), mode="shadow")
    else:
        tap = BrokenTap([HEAD], BACKBONE.hidden_size)
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap), policies=OPEN)
        tap.broken = True

    def noted():
        open_jobs = gateway.engine._active
        flagged = any(stream.flagged_at is not None for job in open_jobs for stream in job.streams)
        return flagged or any(job.broken for job in open_jobs)

    said = [event(delta(content=text)) for text in ("The lock holds", " the water back.")]
    async with relayed(gateway, Reply([*said, lambda: eventually(noted)])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert '"code":"upstream_ended"' in response.text


@pytest.mark.parametrize("when", ["prompt", "answer"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_fault_in_shadow_mode_changes_no_answer(make_gateway, monkeypatch, stream, when):
    """Also one that the gate can't note, such as a text that can't be tokenised or a model that fails."""

    def fails(*_):
        raise ValueError("no tokens")

    if when == "answer":
        monkeypatch.setattr(Intake, "take", fails)
    else:
        monkeypatch.setattr(GivenStepper, "_take_given_prompt", fails)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD), mode="shadow")
    reply = chat_stream([WHOLE]) if stream else chat_body(WHOLE)
    async with relayed(gateway, Reply([reply], kind=STREAM if stream else "application/json")) as (client, _):
        response = await client.post(CHAT, json=ask(stream=stream))
    assert WHOLE in response.text
    assert [(line["decision"], line["enforced"]) for line in decisions_of(gateway)] == [("error", False)]


async def test_a_check_that_was_flagged_in_shadow_mode_and_is_given_up_is_no_answer(make_gateway):
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, -math.inf), mode="shadow")
    async with client_for(gateway) as client:
        prompt = [{"role": "user", "content": "why does the lock hold"}]
        opened = (await client.post("/v1/decisions", json={"messages": prompt, "open": True})).json()
        one = {"id": opened["id"]}
        await client.post("/v1/decisions", json={**one, "text": "The lock holds the water back."})
        engine = gateway.engine
        end = engine.end_given
        engine.end_given = lambda *given: (engine.end_open(), end(*given))
        response = await client.post("/v1/decisions", json={**one, "text": " And", "end": True})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
