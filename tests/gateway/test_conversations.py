"""What the server remembers of conversations: for whom, for how long, and what it changes."""

import itertools

import pytest
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from serving import CHAT, ask, client_for, decisions_of, events_of, path_of, scoring_for, text_of
from test_given import BACKBONE, HEAD, smoothed

from lockgate.cascade.memory import Memory
from lockgate.gateway import Conversations
from lockgate.gateway._conversations import HEADER, conversation_id

MEMORY = Memory(allowance=1.0, forget=0.25, limit=3.0)
PROMPT, ANSWER = "why does the lock hold", "The lock holds the water back."
ONE, TWO = conversation_id("team", "one"), conversation_id("team", "two")


def test_only_conversations_with_evidence_are_kept_and_only_for_their_life() -> None:
    clock = itertools.count(0, 10)
    known = Conversations(MEMORY, life=95, clock=lambda: float(next(clock)))
    known.add(ONE, -5.0)
    assert len(known) == 0
    known.add(ONE, 0.0)
    known.add(TWO, -0.5)
    assert len(known) == 2
    for _ in range(3):
        known.add(ONE, 0.0)
    assert known.lowered(ONE) == 2.0
    for _ in range(9):
        assert known.lowered(conversation_id(None, "else")) == 0.0
    assert (known.lowered(ONE), len(known)) == (0.0, 0)


def test_the_one_that_was_quiet_longest_gives_way() -> None:
    known = Conversations(MEMORY, most=2)
    for name in (ONE, TWO, conversation_id("team", "three"), TWO):
        known.add(name, 0.0)
    assert len(known) == 2
    known.add(ONE, 0.0)
    known.add(TWO, 0.0)
    assert known.lowered(TWO) == MEMORY.lowered(3.0)


def test_no_key_reaches_the_conversations_of_another() -> None:
    names = {conversation_id(key, given) for key in (None, "a", "a\0b") for given in ("x", "b\0x")}
    assert len(names) >= 5
    assert conversation_id("a", "x") != conversation_id("b", "x")


def attempts_until_stopped(margin: float) -> int:
    evidence = 0.0
    for number in itertools.count(1):
        if margin > -MEMORY.lowered(evidence):
            return number
        evidence = MEMORY.add(evidence, margin)
    raise AssertionError


@pytest.mark.anyio
@pytest.mark.parametrize("upstream", [True, False])
async def test_attempts_below_the_threshold_add_up_over_regenerated_turns(make_gateway, upstream) -> None:
    plain = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    body = ask(PROMPT, stream=True, max_tokens=6)
    if upstream:
        top = max(smoothed(PROMPT, ANSWER))
    else:
        async with client_for(plain) as client:
            await client.post(CHAT, json=body)
        top = decisions_of(plain)[0]["scores"]["max_answer"]
    gateway = make_gateway(
        BACKBONE, scoring_for(BACKBONE, HEAD, top + 0.45), conversations=Conversations(MEMORY)
    )

    async def decisions(client, given: str | None, times: int) -> list[str]:
        before = len(decisions_of(gateway)) if path_of(gateway).exists() else 0
        headers = {} if given is None else {HEADER: given}
        texts = [
            text_of(events_of(await client.post(CHAT, json=body, headers=headers))) for _ in range(times)
        ]
        lines = decisions_of(gateway)[before:]
        for line, text in zip(lines, texts, strict=True):
            assert (line["decision"] == "pass") == (text == texts[0])
        return [line["decision"] for line in lines]

    expected = attempts_until_stopped(-0.45)
    serving = relayed(gateway, Reply([chat_stream([ANSWER])])) if upstream else client_for(gateway)
    async with serving as made:
        client = made[0] if upstream else made
        found = await decisions(client, "mine", expected + 1)
        assert found == ["pass"] * (expected - 1) + ["halt"] * 2
        assert await decisions(client, None, 3) == ["pass"] * 3
        assert await decisions(client, "yours", 2) == ["pass"] * 2
    lowered = [line["lowered"] for line in decisions_of(gateway)]
    assert lowered[:2] == [0.0, 0.0]
    assert lowered[expected - 1] > 0.45
    assert lowered[expected + 1 :] == [0.0] * 5


@pytest.mark.anyio
@pytest.mark.parametrize("opened", [False, True])
async def test_checks_of_a_conversation_add_up(make_gateway, opened) -> None:
    top = max(smoothed(PROMPT, ANSWER))
    gateway = make_gateway(
        BACKBONE, scoring_for(BACKBONE, HEAD, top + 0.45), conversations=Conversations(MEMORY)
    )
    asked = {"messages": ask(PROMPT)["messages"]}

    async def judged(client, given: str) -> str:
        headers = {HEADER: given}
        if opened:
            made = (await client.post("/v1/decisions", json={**asked, "open": True}, headers=headers)).json()
            body = {"id": made["id"], "text": ANSWER, "end": True}
        else:
            body = {"messages": [*asked["messages"], {"role": "assistant", "content": ANSWER}]}
        return (await client.post("/v1/decisions", json=body, headers=headers)).json()["decision"]

    expected = attempts_until_stopped(-0.45)
    async with client_for(gateway) as client:
        found = [await judged(client, "mine") for _ in range(expected + 1)]
        assert found == ["pass"] * (expected - 1) + ["halt"] * 2
        assert await judged(client, "yours") == "pass"
