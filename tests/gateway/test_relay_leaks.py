"""Invariant 1 in upstream mode: nothing leaves that was not scored and cleared, however the bytes arrive."""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
from classifying import FaultyVerdicts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relaying import Told, relayed, told_by, transported
from scripted_upstream import DONE, Reply, chat_stream, delta, event
from serving import CHAT, REFUSAL, ask, decisions_of, eventually, scoring_for
from staging import staged
from test_given import BACKBONE, HEAD, smoothed

from lockgate.cascade import Cascade
from lockgate.gateway._records import UNCHECKED
from lockgate.gateway.upstream._script import AnswerScript

pytestmark = pytest.mark.anyio
HALTS = [{"refusal": text} for text in (REFUSAL, UNCHECKED)]
PROMPT = "why does the lock hold"
WORDS = st.lists(
    st.sampled_from([*["the", " lock", "\n", "  ", " don't", " 12", "3", '{"a": "'], "é", "你好", " 🙂"]),
    min_size=1,
    max_size=5,
).map("".join)
FIELDS = st.sampled_from(
    ["content", "content", "content", "reasoning_content", "refusal", "arguments", "new_field"]
)
RELAXED = settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Written:
    """What an upstream writes: a field and a text for each event, in order."""

    events: Sequence[tuple[str, str]]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [_delta(field, text) for field, text in self.events]

    @property
    def script(self) -> tuple[str, list[int]]:
        """The text that the guard reads, and where each event's part of it ends."""
        script, text, ends = AnswerScript(), "", []
        for field, piece in self.events:
            if field == "arguments":
                text += script.call(0, "", "", piece)
            else:
                text += script.text(field, piece)
            ends.append(len(text))
        return text + script.end(), ends


def _delta(field: str, text: str) -> dict[str, Any]:
    if field == "arguments":
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {field: text}


def stream_of(choices: Sequence[Written], order: Sequence[int]) -> bytes:
    """The events of some choices, mixed in the given order."""
    waiting = [list(written.deltas) for written in choices]
    parts = []
    for pick in [*order, *(number for number, left in enumerate(waiting) for _ in left)]:
        if waiting[pick % len(choices)]:
            number = pick % len(choices)
            parts.append(event(delta(number, **waiting[number].pop(0))))
    ends = [event(delta(number, "stop")) for number in range(len(choices))]
    return b"".join([*parts, *ends, DONE])


WRITTEN = st.lists(st.tuples(FIELDS, WORDS), max_size=12).map(Written)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Written], list[bytes]]:
    choices = draw(st.lists(WRITTEN, min_size=1, max_size=2))
    body = stream_of(choices, draw(st.lists(st.integers(0, 1), max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=10)))
    return choices, [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def events_left(response: httpx2.Response, choice: int) -> list[dict[str, Any]]:
    """The deltas of a choice that have left, without those of a halt."""
    found = []
    for part in response.text.split("\n\n"):
        if not part.startswith("data: {"):
            continue
        for item in json.loads(part.removeprefix("data: ")).get("choices", ()):
            if item["index"] == choice and (left := item["delta"]) and left not in HALTS:
                found.append({key: value for key, value in left.items() if key != "role" and value != ""})
    return [left for left in found if left]


@given(found=streams(), quantile=st.floats(0, 1))
@RELAXED
async def test_nothing_from_the_flagged_token_on_leaves(make_gateway, found, quantile) -> None:
    choices, parts = found
    everything = [score for written in choices for score in smoothed(PROMPT, written.script[0])]
    line = math.inf if not everything else sorted(everything)[int(quantile * (len(everything) - 1))] - 1e-3
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, line))
    async with transported(gateway, parts) as client:
        response = await client.post(CHAT, json=ask(PROMPT, stream=True, n=len(choices)))
    assert response.text.endswith("data: [DONE]\n\n")
    for number, written in enumerate(choices):
        text, ends = written.script
        tokens = BACKBONE.chat.vocabulary.encode_answer_tokens(text)
        flagged = next((i for i, score in enumerate(smoothed(PROMPT, text)) if score > line), None)
        left = events_left(response, number)
        whole = [found for found in written.deltas if found]
        assert left == whole[: len(left)]
        if flagged is None:
            assert left == whole
        else:
            cleared = sum(len(token.text) for token in tokens[:flagged])
            assert all(end <= cleared for end in ends[: len(left)])


async def test_a_piece_whose_last_character_is_flagged_does_not_leave(make_gateway) -> None:
    """All of the piece but that character is cleared."""
    piece = "the lock!"
    *before, last = smoothed(PROMPT, piece)
    assert BACKBONE.chat.vocabulary.encode_answer_tokens(piece)[-1].text == "!"
    assert last > max(before), "the character was chosen for this"
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, (last + max(before)) / 2))
    parts = [event(delta(content=piece)), event(delta(content=" again")), event(delta(0, "stop")), DONE]
    async with transported(gateway, parts) as client:
        response = await client.post(CHAT, json=ask(PROMPT, stream=True))
    assert [line["decision"] for line in decisions_of(gateway)] == ["halt"]
    assert events_left(response, 0) == []


@given(found=streams(), verdict=st.sampled_from([-1.0, 1.0, math.nan]), stride=st.integers(1, 9))
@RELAXED
async def test_nothing_leaves_before_its_verdict(make_gateway, found, verdict, stride) -> None:
    """The probe is always suspicious, so each block waits. What is condemned or not judged never leaves."""
    choices, parts = found

    class Fixed(FaultyVerdicts):
        def __init__(self, classifier, kv_tokens):
            super().__init__(classifier, kv_tokens)
            self.constant = verdict

    always = Cascade(escalate=-math.inf, flag=0.0, weight=0.0, stride=stride)
    scoring, _ = staged(BACKBONE, HEAD, always, kind=Fixed)
    gateway = make_gateway(BACKBONE, scoring)
    async with transported(gateway, parts) as client:
        response = await client.post(CHAT, json=ask(PROMPT, stream=True, n=len(choices)))
    for number, written in enumerate(choices):
        left = events_left(response, number)
        assert left == ([] if not verdict <= 0 and written.script[0] else [d for d in written.deltas if d])


@given(found=streams())
@RELAXED
async def test_shadow_mode_changes_nothing(make_gateway, found) -> None:
    choices, parts = found
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD, -math.inf), mode="shadow")
    async with transported(gateway, parts) as client:
        response = await client.post(CHAT, json=ask(PROMPT, stream=True, n=len(choices)))
    for number, written in enumerate(choices):
        assert events_left(response, number) == [found for found in written.deltas if found]


@pytest.mark.parametrize("stage", ["probe", "verdict"])
async def test_a_fault_of_the_guard_stops_the_answer(make_gateway, stage) -> None:
    if stage == "probe":
        head = replace(HEAD, bias=HEAD.bias * math.nan)
        scoring = scoring_for(BACKBONE, head)
    else:
        always = Cascade(escalate=-math.inf, flag=math.inf, weight=0.0, stride=4)
        scoring, made = staged(BACKBONE, HEAD, always)
    gateway = make_gateway(BACKBONE, scoring)
    if stage == "verdict":
        made[0].broken = RuntimeError("no verdict")
    async with relayed(gateway, Reply([chat_stream(["The lock holds the water back."] * 3)])) as (client, _):
        response = await client.post(CHAT, json=ask(stream=True))
    assert "water" not in response.text
    assert "could not be checked" in response.text
    assert decisions_of(gateway)[0]["decision"] == "error"


async def test_a_client_that_leaves_ends_the_answer_everywhere(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    endless = Reply([event(delta(content="The lock holds the water back.")) * 3, 30.0])
    async with told_by(gateway, endless) as (told, upstream):
        assert isinstance(told, Told)
        await eventually(lambda: "water" in told.text)
        told.leave()
        await eventually(lambda: upstream.open == 0)
        await eventually(lambda: gateway.engine.kv_used_tokens == 0)
    assert decisions_of(gateway)[0]["decision"] == "cancelled"


async def test_a_slow_client_is_felt_upstream(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    # More than the buffers of the sockets hold.
    one = event(delta(content=" lock " * 5_000))
    async with told_by(gateway, Reply([one] * 1_000), slow=True) as (told, upstream):
        await eventually(lambda: "lock" in told.text)
        sent = -1
        while sent != upstream.sent:
            sent = upstream.sent
            await asyncio.sleep(0.5)
        assert sent < 1_000 * len(one) / 2
