"""The tables of docs/upstream.md, row by row and route by route: whose words a text is, what comes of it."""

import json
from typing import Any

import httpx2
import pytest
from answer_cases import ANSWER_CASES, Answer, as_bytes, odd_answers, stream_of
from marking import MARK, Watched, marked, marking_backbone, marking_guard, rows_of
from prompt_cases import BASE, CHAT, COMPLETIONS, MESSAGES, PROMPT_CASES, RESPONSES, ROUTES
from relaying import relayed
from scripted_upstream import DONE, Reply, Scripted, delta, event
from serving import REFUSAL, decisions_of

pytestmark = pytest.mark.anyio
PROMPT_ROWS, ANSWER_ROWS = rows_of("in the request"), rows_of("in the answer")
ODD = "any other text, in fields that nobody has heard of"
CHOICES = "each of several choices (`n`)"
# What a row says: as whose words the text is read, and what comes of a text that the guard flags.
READ = {
    "the operator's words: read, never flagged": ("system", "pass"),
    "the operator's words": ("system", "pass"),
    "the operator's words, judged with that prompt": ("system", "block"),
    "the user's words": ("user", "block"),
    "the model's words": ("assistant", "pass"),
    "the model's words, judged with the newest prompt": ("assistant", "block"),
    "a tool's words, judged with the newest prompt": ("tool", "block"),
}
REFUSED = {
    "refused with a 400, or passed unread with `--upstream-media pass`",
    "refused: the guard can't see what is kept elsewhere",
    "refused",
    "refused: they would leave unscored",
    "refused: the model would read what the guard does not",
}
SCORED = {"scored", "scored, as JSON", "scored. What stands behind the answer's end is left out"}
PASSED = {"pass", "pass if they repeat the content, scored otherwise", "scored by itself"}
BACKBONE = marking_backbone()


@pytest.fixture
def watched(make_gateway) -> Watched:
    return Watched(make_gateway(BACKBONE, marking_guard(BACKBONE)))


def cells(cases, rows) -> list[Any]:
    """A parameter for each row and route."""
    return [pytest.param(row, route, id=f"{route} {row}") for row in rows if row in cases for route in ROUTES]


def test_each_row_has_a_case_and_each_case_a_row() -> None:
    assert set(PROMPT_CASES) == set(PROMPT_ROWS)
    assert {*ANSWER_CASES, ODD, CHOICES} == set(ANSWER_ROWS)
    for cases in (PROMPT_CASES, ANSWER_CASES):
        for row, found in cases.items():
            assert set(found) == set(ROUTES), row
            assert any(found.values()), row
    assert set(PROMPT_ROWS.values()) == {*READ, *REFUSED}
    assert set(ANSWER_ROWS.values()) == SCORED | PASSED


def reply(route: str, text: str = "so") -> Reply:
    """An answer without the mark."""
    found = {"content": text}
    bodies = {
        CHAT: {"choices": [{"index": 0, "message": found, "finish_reason": "stop"}]},
        COMPLETIONS: {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]},
        RESPONSES: {"output": []},
        MESSAGES: {"type": "message", "content": [{"type": "text", "text": text}]},
    }
    return Reply([as_bytes(bodies[route])], kind="application/json")


def last_decision(watched: Watched) -> str:
    return decisions_of(watched.gateway)[-1]["decision"]


@pytest.mark.parametrize(("row", "route"), cells(PROMPT_CASES, PROMPT_ROWS))
async def test_a_text_of_a_request(watched, row, route) -> None:
    told = PROMPT_ROWS[row]
    async with relayed(watched.gateway, reply(route)) as (client, upstream):
        for fields in PROMPT_CASES[row][route]:
            upstream.requests.clear()
            asked = marked({**BASE[route], **fields}, MARK)
            response = await client.post(route, json=asked)
            if told in REFUSED:
                assert (response.status_code, upstream.requests) == (400, []), fields
                continue
            role, decision = READ[told]
            assert response.status_code == 200, response.text
            assert watched.roles_of_the_mark() == {role}, fields
            assert last_decision(watched) == decision, fields
            assert upstream.requests == ([] if decision == "block" else [asked])


@pytest.mark.parametrize("route", ROUTES)
async def test_media_pass_unread_if_they_may(watched, route) -> None:
    async with relayed(watched.gateway, reply(route), media="pass") as (client, upstream):
        for fields in PROMPT_CASES["images, audio, files"][route]:
            upstream.requests.clear()
            asked = marked({**BASE[route], **fields}, MARK)
            await client.post(route, json=asked)
            assert watched.roles_of_the_mark() == set()
            assert last_decision(watched) == "pass"
            assert upstream.requests == [asked]


class Asking:
    """A client on one route, whose upstream says what the test gives it."""

    def __init__(self, client: httpx2.AsyncClient, upstream: Scripted, route: str) -> None:
        self._client, self._upstream, self._route = client, upstream, route

    async def get(self, found: Answer, mark: str, *, stream: bool) -> httpx2.Response:
        """What leaves of an answer with this mark."""
        if stream:
            made = Reply([stream_of(self._route, marked(list(found.events), mark))])
        else:
            made = Reply([as_bytes(marked(found.body, mark))], kind="application/json")
        self._upstream.replies = [made]
        response = await self._client.post(self._route, json={**BASE[self._route], "stream": stream})
        assert response.status_code == 200, (found, response.text)
        return response


def shapes(found: Answer) -> list[bool]:
    return [True] * bool(found.events) + [False] * (found.body is not None)


@pytest.mark.parametrize(("row", "route"), cells(ANSWER_CASES, ANSWER_ROWS))
async def test_a_text_of_an_answer(watched, row, route) -> None:
    told = ANSWER_ROWS[row]
    async with relayed(watched.gateway, reply(route)) as (client, upstream):
        asking = Asking(client, upstream, route)
        for found in ANSWER_CASES[row][route]:
            for stream in shapes(found):
                response = await asking.get(found, MARK, stream=stream)
                if told == "pass":
                    assert (MARK in response.text, last_decision(watched)) == (True, "pass"), found
                elif found.repeats:
                    assert (watched.given, last_decision(watched)) == ({0: "so"}, "pass"), found
                else:
                    assert (MARK in response.text, last_decision(watched)) == (False, "halt"), found
                    plain = await asking.get(found, "-", stream=stream)
                    assert (REFUSAL in plain.text, last_decision(watched)) == (False, "pass"), found
                    assert told != "scored, as JSON" or _has_a_call(watched.given[0])


def _has_a_call(text: str) -> bool:
    """Tell whether a text holds a tool call, in the form that files have."""
    calls, _ = json.JSONDecoder().raw_decode(text[text.index("[{") :])
    return calls[0]["type"] == "function"


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
async def test_unknown_fields_of_an_answer(watched, route) -> None:
    left_out = 0
    async with relayed(watched.gateway, reply(route)) as (client, upstream):
        asking = Asking(client, upstream, route)
        for found in odd_answers(route):
            for stream in shapes(found):
                response = await asking.get(found, MARK, stream=stream)
                assert MARK not in response.text, found
                left_out += last_decision(watched) == "pass"
                await asking.get(found, "-", stream=stream)
                assert last_decision(watched) == "pass", found
    # Each of the five samples has one event behind its end.
    assert left_out == (5 if route == MESSAGES else 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
async def test_each_choice_is_scored_by_itself(watched, route, stream) -> None:
    texts = ("the lock holds", f"the {MARK} holds")
    parts: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        said = {"delta": {"content": text}, "message": {"content": text}, "text": text}
        parts.append({"index": index, **said, "finish_reason": None})
    if stream:
        ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in (1, 0)]
        made = Reply([event({"choices": [part]}) for part in (*parts, *ends)] + [DONE])
    else:
        keep = "message" if route == CHAT else "text"
        choices = [{"index": part["index"], keep: part[keep], "finish_reason": "stop"} for part in parts]
        made = Reply([as_bytes({"choices": choices})], kind="application/json")
    async with relayed(watched.gateway, made) as (client, _):
        response = await client.post(route, json={**BASE[route], "n": 2, "stream": stream})
    assert (MARK in response.text, texts[0] in response.text) == (False, True)
    assert {line["choice"]: line["decision"] for line in decisions_of(watched.gateway)} == {
        0: "pass",
        1: "halt",
    }


async def test_usage_behind_the_end_leaves_without_unknown_text(watched) -> None:
    late = {"choices": [], "usage": {"total_tokens": 3}, "odd": MARK}
    made = Reply([event(delta(content="so")), event(delta(0, "stop")), event(late), DONE])
    async with relayed(watched.gateway, made) as (client, _):
        response = await client.post(CHAT, json={**BASE[CHAT], "stream": True})
    assert MARK not in response.text
    assert '"total_tokens":3' in response.text
