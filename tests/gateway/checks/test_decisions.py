"""`/v1/decisions`: whole exchanges and open checks, over the real application on a tiny model."""

import asyncio
import itertools
import re

import httpx2
import pytest
from checking import ANSWER, BACKBONE, HEAD, MARGINS, PROMPT, TEXTS, answer_tokens, offline, prompt_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import text_of_log
from serving import NEVER, REFUSAL, client_for, decisions_of, path_of, scoring_for
from staging import staged
from taps import BrokenTap, CountingTap, StuckTap

from lockgate.cascade import Cascade
from lockgate.gateway import CheckOptions, create_app

pytestmark = pytest.mark.anyio

PATH = "/v1/decisions"


def exchange(answer: str = ANSWER) -> list[dict[str, str]]:
    return [*PROMPT, {"role": "assistant", "content": answer}]


def levels(answer: str = ANSWER) -> list[float]:
    """Thresholds around the highest score of the exchange."""
    score = offline(scoring_for(BACKBONE, HEAD), answer).max_answer
    return [score - 1e-3, score + 1e-3]


async def post(client, path: str = PATH, **fields):
    response = await client.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def make(make_gateway):
    """Makes a gateway on the tiny model under a threshold."""
    return lambda flag=NEVER, **options: make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, flag), **options)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_whole_exchange_gets_the_decision_of_a_file(make, number):
    gateway = make(levels()[number])
    expected = offline(gateway.engine.scoring, ANSWER)
    async with client_for(gateway) as client:
        found = await post(client, messages=exchange(), model="any")
    line = decisions_of(gateway)[0]
    assert found["decision"] == line["decision"] == ("halt" if expected.flagged else "pass")
    assert expected.flagged == (number == 0)
    assert found["category"] == line["category"] == expected.category
    assert found["refusal"] == (REFUSAL if expected.flagged else None)
    assert (found["stage"], found["enforced"], found["mode"]) == (1, expected.flagged, "enforce")
    assert line["scores"]["max_answer"] == pytest.approx(expected.max_answer, abs=1e-4)
    assert line["token_index"] == expected.flag_token
    assert found["id"] == line["id"]
    assert "score" not in str(found)
    if not expected.flagged:
        assert found["released"] == found["received"] == len(ANSWER)


async def test_a_prompt_alone_is_blocked_or_passes(make_gateway):
    for flag, decision in ((-NEVER, "block"), (NEVER, "pass")):
        gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, flag, flag_on="both"))
        async with client_for(gateway) as client:
            found = await post(client, messages=PROMPT)
            opened = await post(client, messages=PROMPT, open=True)
            assert found["decision"] == decision
            assert opened["decision"] == (None if decision == "pass" else "block")


@given(answer=TEXTS, cuts=st.lists(st.integers(0, 90), max_size=8), above=MARGINS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_get_the_decision_of_the_whole_and_never_more_text(make, answer, cuts, above):
    """The threshold lies around the answer's highest score, so about half of the answers are flagged."""
    top = offline(scoring_for(BACKBONE, HEAD), answer).max_answer if answer else 0.0
    gateway = make(top + above)
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[a:b] for a, b in itertools.pairwise(edges)]

    async def run():
        async with client_for(gateway) as client:
            whole = await post(client, messages=exchange(answer))
            name = (await post(client, messages=PROMPT, open=True))["id"]
            steps = [await post(client, id=name, text=piece) for piece in pieces]
            return whole, steps, await post(client, id=name, end=True)

    whole, steps, last = asyncio.run(run())
    assert [last[key] for key in ("decision", "category", "refusal")] == [
        whole[key] for key in ("decision", "category", "refusal")
    ]
    assert whole["decision"] == ("halt" if offline(gateway.engine.scoring, answer).flagged else "pass")
    cleared = [step["released"] for step in steps]
    assert cleared == sorted(cleared)
    assert all(step["released"] <= step["received"] for step in steps)
    # Beyond what the whole answer clears, only the start of a token leaves that was clear as the text's end.
    for step in (*steps, last):
        text = answer[: step["released"]]
        beyond = len(text) > whole["released"]
        assert not beyond or (len(text) in edges and not offline(gateway.engine.scoring, text).flagged)
    lines = decisions_of(gateway)
    assert lines[0]["scores"] == pytest.approx(lines[1]["scores"], abs=1e-4)
    assert lines[0]["completion_tokens"] == lines[1]["completion_tokens"]


async def test_text_is_cleared_as_it_comes(make):
    async with client_for(make()) as client:
        name = (await post(client, messages=PROMPT, open=True))["id"]
        first = await post(client, id=name, text="the lock holds")
        second = await post(client, id=name, text=" the water back")
        last = await post(client, id=name, text=" now", end=True)
    assert (first["released"], first["decision"]) == (14, None)
    assert (second["released"], second["received"]) == (29, 29)
    assert (last["released"], last["decision"]) == (33, "pass")


async def test_each_token_is_read_once(make_gateway):
    tap = CountingTap([HEAD], BACKBONE.hidden_size)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap))
    words = [f"{word} " for word in ANSWER.split()]
    async with client_for(gateway) as client:
        before = tap.rows
        name = (await post(client, messages=PROMPT, open=True))["id"]
        for word in words:
            await post(client, id=name, text=word)
        await post(client, id=name, end=True)
    # Besides, each call tries the last word and the blank behind it, which more text may still change.
    tried = sum(answer_tokens(word) for word in words)
    assert tap.rows - before <= prompt_tokens() + answer_tokens("".join(words)) + tried
    assert decisions_of(gateway)[0]["completion_tokens"] == answer_tokens("".join(words))


async def test_a_halted_check_stays_halted(make):
    gateway = make(-NEVER)
    async with client_for(gateway) as client:
        name = (await post(client, messages=PROMPT, open=True))["id"]
        halted = await post(client, id=name, text=ANSWER)
        again = await post(client, id=name, text=" and more")
        ended = await post(client, id=name, end=True)
    assert halted["decision"] == "halt"
    assert again == ended == halted
    assert len(decisions_of(gateway)) == 1


async def test_shadow_mode_tells_and_holds_nothing(make):
    gateway = make(-NEVER, mode="shadow")
    async with client_for(gateway) as client:
        whole = await post(client, messages=exchange())
        name = (await post(client, messages=PROMPT, open=True))["id"]
        step = await post(client, id=name, text=ANSWER)
        end = await post(client, id=name, end=True)
    for found in (whole, end):
        assert (found["decision"], found["enforced"], found["refusal"]) == ("halt", False, None)
        assert found["released"] == len(ANSWER)
    assert (step["mode"], step["enforced"], step["released"]) == ("shadow", False, len(ANSWER))
    assert {line["enforced"] for line in decisions_of(gateway)} == {False}


async def test_held_text_is_not_released_before_its_verdict(make_gateway):
    """With stage 2 always asked, a block leaves only after its verdict."""
    always = Cascade(escalate=-NEVER, flag=0.0, weight=0.0, stride=8)
    scoring, made = staged(BACKBONE, HEAD, always)
    gateway = make_gateway(BACKBONE, scoring)
    async with client_for(gateway) as client:
        made[0].constant = -1.0
        name = (await post(client, messages=PROMPT, open=True))["id"]
        step = await post(client, id=name, text=ANSWER)
        last = await post(client, id=name, end=True)
        made[0].constant = 1.0
        flagged = await post(client, messages=exchange())
    assert 0 < step["released"] < step["received"]
    assert (last["released"], last["decision"], last["stage"]) == (last["received"], "pass", 2)
    assert (flagged["released"], flagged["decision"], flagged["stage"]) == (0, "halt", 2)


async def test_a_check_belongs_to_the_client_and_key_that_opened_it(make):
    gateway = make(checks=CheckOptions(open_per_client=1))
    app = create_app(gateway)
    async with app.router.lifespan_context(app):

        def client(host: str, **headers: str):
            transport = httpx2.ASGITransport(app=app, client=(host, 1))
            return httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

        async with (
            client("10.0.0.1") as own,
            client("10.0.0.2") as other,
            client("10.0.0.1", authorization="Bearer else") as keyed,
        ):
            name = (await post(own, messages=PROMPT, open=True))["id"]
            for stranger in (other, keyed):
                refused = await stranger.post(PATH, json={"id": name, "end": True})
                assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_check")
                assert (await post(stranger, messages=PROMPT, open=True))["id"] != name
            full = await own.post(PATH, json={"messages": PROMPT, "open": True})
            assert (full.status_code, full.json()["error"]["code"]) == (429, "too_many_checks")
            assert int(full.headers["retry-after"]) >= 1
            assert (await post(own, id=name, end=True))["decision"] == "pass"
            await post(own, messages=PROMPT, open=True)


async def test_ended_and_unknown_checks_have_codes(make):
    async with client_for(make()) as client:
        name = (await post(client, messages=PROMPT, open=True))["id"]
        await post(client, id=name, text="so", end=True)
        ended = await client.post(PATH, json={"id": name, "text": "more"})
        unknown = await client.post(PATH, json={"id": "check-0", "text": "more"})
    assert (ended.status_code, ended.json()["error"]["code"]) == (409, "check_ended")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_check")


async def test_an_idle_check_ends_and_gives_its_memory_back(make):
    gateway = make(checks=CheckOptions(idle_timeout=0.05))
    async with client_for(gateway) as client:
        name = (await post(client, messages=PROMPT, open=True))["id"]
        async with asyncio.timeout(20):
            while gateway.engine.kv_used_tokens or not decisions_of(gateway):
                await asyncio.sleep(0.02)
        late = await client.post(PATH, json={"id": name, "text": "so"})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "check_ended")
    line = decisions_of(gateway)[0]
    assert (line["id"], line["decision"], line["reason"]) == (name, "cancelled", "check_idle")


@pytest.mark.parametrize("whole", [True, False])
async def test_a_wait_that_is_too_long_is_no_pass(make_gateway, whole):
    tap = StuckTap([HEAD], BACKBONE.hidden_size)
    options = CheckOptions(wait_timeout=0.2)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap), checks=options)
    async with client_for(gateway) as client:
        opened = None if whole else await post(client, messages=PROMPT, open=True)
        tap.stuck.set()
        body = {"messages": exchange()} if opened is None else {"id": opened["id"], "text": ANSWER}
        late = await client.post(PATH, json=body)
        tap.go.set()
        assert (late.status_code, late.json()["error"]["code"]) == (503, "check_timeout")
        assert int(late.headers["retry-after"]) >= 1
        if opened is not None:
            after = await client.post(PATH, json={"id": opened["id"], "end": True})
            assert after.status_code == 409
    line = decisions_of(gateway)[-1]
    assert (line["decision"], line["reason"]) == ("cancelled", "check_timeout")


async def test_a_failing_guard_is_an_error_and_no_pass(make_gateway):
    tap = BrokenTap([HEAD], BACKBONE.hidden_size)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap))
    async with client_for(gateway) as client:
        tap.broken = True
        found = await post(client, messages=exchange())
    assert (found["decision"], found["enforced"], found["released"]) == ("error", True, 0)
    assert found["refusal"]


async def test_one_call_at_a_time_holds_a_check(make_gateway):
    tap = StuckTap([HEAD], BACKBONE.hidden_size)
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, tap=tap))
    async with client_for(gateway) as client:
        name = (await post(client, messages=PROMPT, open=True))["id"]
        tap.stuck.set()
        first = asyncio.create_task(client.post(PATH, json={"id": name, "text": "so"}))
        async with asyncio.timeout(20):
            while (second := await client.post(PATH, json={"id": name, "text": ""})).status_code != 409:
                await asyncio.sleep(0.01)
        tap.go.set()
        assert (await first).status_code == 200
    assert second.json()["error"]["code"] == "check_busy"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": PROMPT, "text": "x"}, "text"),
        ({"messages": PROMPT, "end": True}, "end"),
        ({"messages": PROMPT, "open": "yes"}, "open"),
        ({"messages": [*PROMPT, {"role": "assistant", "content": "x"}], "open": True}, "messages"),
        ({"messages": [{"role": "user", "content": "why " * 60_000}]}, "messages"),
        ({"id": "check-1", "messages": PROMPT}, "id"),
        ({"id": 5}, "id"),
        ({"id": "x" * 300}, "id"),
        ({"id": "check-1", "text": 5}, "text"),
        ({"id": "check-1", "text": "x" * 100_001}, "text"),
        ({"messages": PROMPT, "txet": "x"}, None),
        ({"input": "x", "questions": []}, None),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named(make, body, param):
    async with client_for(make()) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert "txet" not in response.text


async def test_a_server_without_a_guard_says_so(make_gateway):
    async with client_for(make_gateway(BACKBONE, None)) as client:
        response = await client.post(PATH, json={"messages": PROMPT})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_guard")


async def test_no_text_reaches_the_log(make):
    gateway = make()
    async with client_for(gateway) as client:
        await post(client, messages=[{"role": "user", "content": "orchard"}, *exchange("zebra")[1:]])
    assert not {"orchard", "zebra"} & set(re.findall(r"\w+", text_of_log(path_of(gateway))))
