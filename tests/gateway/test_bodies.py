"""Limits of a body: work and memory grow with what is accepted, not with what is sent."""

import asyncio
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CHAT, ask, client_for, eventually, scoring_for
from taps import StuckTap

from lockgate.gateway import ApiError
from lockgate.gateway._bodies import MAX_DEPTH, MAX_VALUES, BodyRoom, check_size, decode_body

JSON = {"content-type": "application/json"}
TEXT = st.text() | st.text(alphabet='\\"[]{},:')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


def values_in(value):
    """As `check_size` counts: the containers, and the commas between members."""
    if not isinstance(value, dict | list):
        return 0
    members = value.values() if isinstance(value, dict) else value
    return 1 + max(0, len(value) - 1) + sum(map(values_in, members))


def depth_of(value):
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


def refusal(body):
    try:
        check_size(body)
    except ApiError as error:
        return error.code
    return None


@given(value=VALUES, ascii_only=st.booleans())
def test_values_and_depth_are_counted_as_a_walk_counts_them(value, ascii_only):
    with pytest.MonkeyPatch.context() as limits:
        text = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
        count, depth = 1 + values_in(value), depth_of(value)
        limits.setattr("lockgate.gateway._bodies.MAX_DEPTH", max(1, depth))
        limits.setattr("lockgate.gateway._bodies.MAX_VALUES", max(100, count))
        assert refusal(text) is None
        if depth > 1:
            limits.setattr("lockgate.gateway._bodies.MAX_DEPTH", depth - 1)
            assert refusal(text) == "too_deep"
        limits.setattr("lockgate.gateway._bodies.MAX_VALUES", count - 1)
        assert refusal(text) == "too_many_values"


@given(body=st.binary() | st.text(alphabet='\\"[]{},:ab').map(str.encode))
def test_any_bytes_are_decoded_or_refused(body):
    try:
        expected = json.loads(body)
        expected = expected if isinstance(expected, dict) else None
    except ValueError:
        expected = None
    if expected is not None:
        assert decode_body(body) == expected
        return
    with pytest.raises(ApiError) as refused:
        decode_body(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "filling",
    [
        b"[" + b",".join([b'{"role":"user","content":""}'] * 135_000) + b"]",
        b"[" + b",".join([b"[]"] * 1_300_000) + b"]",
        b"[" + b",".join([b'""'] * 1_300_000) + b"]",
        b'""' * 1_900_000,
        b'"' + b'\\"' * 1_900_000,
        b"[" * 3_900_000,
        b"]" * 3_900_000,
    ],
)
def test_a_body_of_many_values_is_refused_in_little_memory(filling):
    body = b'{"x":' + filling + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(ApiError):
            decode_body(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Copies of the text, and an object for each of the values that may be there.
    assert peak < 5 * len(body) + 200 * MAX_VALUES


@pytest.mark.anyio
async def test_many_messages_do_not_hold_up_the_event_loop(make_gateway, backbone, head):
    messages = [{"role": "user", "content": ""}] * 135_000
    body = json.dumps({"messages": messages}, separators=(",", ":")).encode()
    gateway = make_gateway(backbone, scoring_for(backbone, head))

    async def longest_pause(client):
        longest, last, running = 0.0, time.monotonic(), True

        async def beat():
            nonlocal longest, last
            while running:
                await asyncio.sleep(0.002)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()

        task = asyncio.create_task(beat())
        response = await client.post(CHAT, content=body, headers=JSON)
        assert response.json()["error"]["code"] == "too_many_values"
        running = False
        await task
        return longest

    async with client_for(gateway) as client:
        # The machine may do other work. A loop that is held up is held up each time.
        pauses = [await longest_pause(client) for _ in range(5)]
    assert min(pauses) < 0.12, pauses


@pytest.mark.anyio
async def test_requests_that_wait_keep_nothing_of_ignored_fields(make_gateway, backbone, head):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    gateway = make_gateway(backbone, scoring_for(backbone, head, tap=tap), max_streams=1)
    large = [
        {"made_up": "x" * 3_900_000},
        {"metadata": {str(number): "y" * 90 for number in range(20_000)}},
        {"made_up": [[]] * 20_000, "user": "z" * 3_000_000},
    ]
    async with client_for(gateway) as client:
        tasks = [asyncio.create_task(client.post(CHAT, json=ask(max_tokens=2)))]
        await eventually(lambda: gateway.engine.active_streams == 1)
        bodies = [json.dumps(ask(max_tokens=2, **fields)).encode() for fields in large * 2]
        tracemalloc.start()
        try:
            for number, body in enumerate(bodies, 1):
                # The client keeps its own copy; the size of the text is what it costs.
                tasks.append(asyncio.create_task(client.post(CHAT, content=body, headers=JSON)))
                await eventually(lambda number=number: gateway.engine.waiting == number)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        tap.go.set()
        assert [(await task).status_code for task in tasks] == [200] * 7
    assert held < 2_000_000
    assert gateway.bodies.used == 0


@pytest.mark.anyio
async def test_bodies_share_a_room_and_give_it_back(make_gateway, backbone, head):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    gateway.bodies = BodyRoom(100_000)
    async with client_for(gateway) as client:
        busy = await client.post(CHAT, json=ask("x" * 200_000))
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert gateway.bodies.used == 0
        assert (await client.post(CHAT, json=ask(max_tokens=2))).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": ""}] * 2_049}, "messages"),
        ({"stop": "x" * 1_001}, "stop"),
        ({"model": "x" * 257}, "model"),
    ],
)
async def test_fields_that_would_be_kept_are_bounded(make_gateway, backbone, head, fields, param):
    gateway = make_gateway(backbone, scoring_for(backbone, head))
    async with client_for(gateway) as client:
        response = await client.post(CHAT, json={**ask(max_tokens=2), **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_depth_is_bounded_far_below_the_decoders():
    assert MAX_DEPTH < 200
    assert refusal(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is None
    assert refusal(b"[" * (MAX_DEPTH + 1)) == "too_deep"
