"""Fair shares: no request and no client keeps the others waiting."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2
import pytest
from engine_runs import new_run, running_engine, start
from hypothesis import given
from hypothesis import strategies as st
from live import Valve
from logs import decisions_in
from serving import CHAT, ask, client_for, decisions_of, events_of, eventually, scoring_for
from taps import StuckTap

from lockgate.gateway import QueueFull
from lockgate.gateway._admission import Line, Load, Turns, held_by, need_of
from lockgate.gateway._events import Finished, Released
from lockgate.gateway._hosts import client_of
from lockgate.gateway._jobs import Stream
from lockgate.gateway._scheduler import share_between_clients, share_prefill

TEXTS = ("why does the lock hold", "the mill and the orchard")


@dataclass(eq=False)
class Request:
    """What `Line` and `Turns` see of a job."""

    client: str
    n: int = 1
    capacity: int = 10
    turn: int = 0
    streams: list = field(default_factory=list)

    def __post_init__(self):
        self.streams = [Stream(choice) for choice in range(self.n)]

    @property
    def done(self):
        return all(stream.done for stream in self.streams)


clients = st.sampled_from("abcd")
requests = st.builds(Request, clients, st.integers(1, 4), st.integers(1, 40))


@given(waiting=st.lists(requests, min_size=1), width=st.integers(1, 6), steps=st.integers(1, 60))
def test_turns_are_shared_by_client_then_request_then_choice(waiting, width, steps):
    turns, taken = Turns(width), Counter()
    runnable = [(job, stream) for job in waiting for stream in job.streams]
    for _ in range(steps):
        chosen = turns.take(runnable)
        assert len(chosen) == min(width, len(runnable)) == len({id(stream) for _, stream in chosen})
        taken.update(id(stream) for _, stream in chosen)
        # While there is a client with nothing, no client has two.
        per_client = Counter(job.client for job, _ in chosen)
        if max(per_client.values()) > 1 and len(chosen) == width < len(runnable):
            assert set(per_client) == {job.client for job in waiting}
    for job in waiting:
        counts = [taken[id(stream)] for stream in job.streams]
        assert max(counts) - min(counts) <= 1
    # No stream waits longer than a round of all.
    rounds = steps // len(runnable)
    assert min(taken[id(stream)] for _, stream in runnable) >= rounds // len(runnable)


def test_a_client_with_one_stream_has_half_the_steps_beside_one_with_many():
    turns = Turns(1)
    many, one = Request("a", n=7), Request("b")
    runnable = [(many, stream) for stream in many.streams] + [(one, one.streams[0])]
    taken = Counter(turns.take(runnable)[0][0].client for _ in range(100))
    assert taken == {"a": 50, "b": 50}


@given(waiting=st.lists(requests, max_size=30), places=st.integers(1, 12), tokens=st.integers(40, 200))
def test_the_line_keeps_limits_and_serves_all(waiting, places, tokens):
    line, limit, active = Line(), Load(places, tokens), []
    waiting = [job for job in waiting if need_of(job).within(limit)]
    for job in waiting:
        line.add(job)
    for _ in range(len(waiting) * 2):
        used = sum((need_of(job) for job in active), Load(0, 0))
        job = line.take(active, Load(places - used.places, tokens - used.tokens), limit)
        if job is None:
            assert active or not len(line)
            if not active:
                break
            active.pop(0)
            continue
        held = held_by(active, job.client)
        assert need_of(job).within(Load(places - used.places, tokens - used.tokens))
        assert not held.places or (held + need_of(job)).within(limit.most_of_it)
        active.append(job)
    assert not len(line)


@given(order=st.lists(clients, min_size=1, max_size=20))
def test_a_clients_requests_keep_their_order(order):
    line, jobs = Line(), [Request(client) for client in order]
    for job in jobs:
        line.add(job)
    limit = Load(1000, 10_000)
    taken = [line.take([], limit, limit) for _ in jobs]
    for client in set(order):
        assert [job for job in taken if job.client == client] == [job for job in jobs if job.client == client]
    # Clients take turns: after r rounds each has had r, or all that it had.
    for end in range(1, len(taken) + 1):
        had = Counter(job.client for job in taken[:end])
        left = Counter(job.client for job in taken[end:])
        assert all(had[client] >= max(had.values()) - 1 for client in left)


@given(counts=st.dictionaries(clients, st.integers(1, 5), min_size=1), newcomer=clients)
def test_a_full_line_makes_room_only_where_that_is_fairer(counts, newcomer):
    line, last = Line(), {}
    for client, count in counts.items():
        for _ in range(count):
            last[client] = Request(client)
            line.add(last[client])
    found = line.to_displace(newcomer)
    most = max(counts.values())
    if most < counts.get(newcomer, 0) + 2:
        assert found is None
    else:
        assert counts[found.client] == most
        assert found is last[found.client]


@given(
    prompts=st.lists(st.tuples(clients, st.integers(0, 300)), max_size=12),
    budget=st.integers(0, 256),
)
def test_prompt_tokens_are_shared_by_client(prompts, budget):
    names, remaining = [client for client, _ in prompts], [count for _, count in prompts]
    shares = share_between_clients(names, remaining, budget)
    assert sum(shares) == min(budget, sum(remaining))
    assert all(0 <= share <= count for share, count in zip(shares, remaining, strict=True))
    whole = {name: sum(c for n, c in prompts if n == name) for name in names}
    got = {name: sum(s for n, s in zip(names, shares, strict=True) if n == name) for name in names}
    for name in names:
        if got[name] < whole[name]:
            assert got[name] >= max(got.values()) - 1 or got[name] >= budget // len(whole) - 1
    if len(set(names)) == 1:
        assert shares == share_prefill(remaining, budget)


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_is_one_client(host, client):
    assert client_of({"client": (host, 1)}) == client
    assert client_of({}) == ""


def flooded(make_gateway, backbone, head, **options):
    """A gateway whose steps are counted one by one, under one request for many long answers."""
    valve = Valve(backbone, head)
    valve.let_through(0)
    return make_gateway(backbone, scoring_for(backbone, head, tap=valve), **options), valve


@pytest.mark.anyio
@pytest.mark.parametrize("other", ["127.0.0.1", "10.0.0.9"])
async def test_a_request_for_eight_answers_leaves_others_their_turn(make_gateway, backbone, head, other):
    gateway, valve = flooded(make_gateway, backbone, head, max_streams=8)
    async with client_for(gateway) as client:
        greedy = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=90, n=8)))
        await eventually(lambda: gateway.engine.active_streams == 8)
        valve.let_through(12)
        await eventually(lambda: valve._left == 0)
        transport = httpx2.ASGITransport(app=client._transport.app, client=(other, 5))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as second:
            single = asyncio.create_task(second.post(CHAT, json=ask(max_tokens=6)))
            await eventually(lambda: gateway.engine.active_streams + gateway.engine.waiting == 9)
            # One step for the prompt and one for each token, as if it were alone, beside the one under way.
            valve.let_through(9)
            answer = await asyncio.wait_for(single, 20)
        assert answer.json()["usage"]["completion_tokens"] == 6
        assert not greedy.done()
        valve.open()
        assert len((await greedy).json()["choices"]) == 8


@pytest.mark.anyio
async def test_many_requests_of_one_client_leave_room_for_another(make_gateway, backbone, head):
    gateway, valve = flooded(make_gateway, backbone, head, max_streams=4, kv_tokens=2048)
    async with client_for(gateway) as client:
        greedy = [asyncio.create_task(client.post(CHAT, json=ask(max_tokens=400))) for _ in range(12)]
        await eventually(lambda: gateway.engine.waiting + gateway.engine.active_streams == 12)
        await eventually(lambda: gateway.engine.active_streams > 0)
        valve.let_through(3)
        transport = httpx2.ASGITransport(app=client._transport.app, client=("10.0.0.9", 5))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as second:
            single = asyncio.create_task(second.post(CHAT, json=ask(max_tokens=6)))
            await eventually(lambda: gateway.engine.waiting + gateway.engine.active_streams == 13)
            valve.let_through(10)
            await asyncio.wait_for(single, 20)
        valve.open()
        assert {(await task).status_code for task in greedy} == {200}


def test_turns_change_no_answer(backbone, head, tmp_path):
    """Streams that take turns get what they get alone."""
    texts = [f"why does gate {number} hold" for number in range(4)]
    (tmp_path / "wide").mkdir()
    with running_engine(backbone, scoring_for(backbone, head), tmp_path / "wide", max_streams=8) as engine:
        alone = [start(engine, new_run(backbone, text, 20)).finish().text() for text in texts]
    with running_engine(backbone, scoring_for(backbone, head), tmp_path, max_streams=2) as engine:
        runs = [new_run(backbone, text, 20) for text in texts]
        for number, run in enumerate(runs):
            run.job.client = str(number)
            start(engine, run)
        assert [run.finish().text() for run in runs] == alone
        while engine.active_streams or engine.kv_used_tokens:
            time.sleep(0.01)


def test_a_wait_is_bounded_and_told(backbone, head, tmp_path):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    scoring = scoring_for(backbone, head, tap=tap)
    with running_engine(backbone, scoring, tmp_path, max_streams=1, queue_timeout=0.4) as engine:
        running = start(engine, new_run(backbone, TEXTS[0], 4))
        while engine.active_streams < 1:
            time.sleep(0.01)
        late = start(engine, new_run(backbone, TEXTS[1], 4))
        unserved = late.finish().end.unserved
        assert (unserved.status, unserved.code) == (503, "overloaded")
        assert 1 <= unserved.retry_after <= 60
        assert engine.waiting == 0
        tap.go.set()
        assert running.finish().end.unserved is None
    lines = decisions_in(tmp_path / "decisions.db")
    assert [(line["decision"], line["reason"]) for line in lines] == [
        ("cancelled", "overloaded"),
        ("pass", None),
    ]


def test_the_longest_queue_makes_room(backbone, head, tmp_path):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    scoring = scoring_for(backbone, head, tap=tap)
    with running_engine(backbone, scoring, tmp_path, max_streams=1, max_queue=3) as engine:
        start(engine, new_run(backbone, TEXTS[0], 2))
        while engine.active_streams < 1:
            time.sleep(0.01)
        greedy = [start(engine, new_run(backbone, TEXTS[1], 2)) for _ in range(3)]
        with pytest.raises(QueueFull):
            start(engine, new_run(backbone, TEXTS[1], 2))
        other = new_run(backbone, TEXTS[0], 2)
        other.job.client = "other"
        start(engine, other)
        assert isinstance(greedy[2].first(), Finished)
        assert greedy[2].end.unserved.code == "overloaded"
        tap.go.set()
        for run in (other, *greedy[:2]):
            assert any(isinstance(event, Released) for event in run.finish().seen)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waited_too_long_gets_the_error_shape(make_gateway, backbone, head, stream):
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    scoring = scoring_for(backbone, head, tap=tap)
    gateway = make_gateway(backbone, scoring, max_streams=1, queue_timeout=0.4)
    async with client_for(gateway) as client:
        running = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=2)))
        await eventually(lambda: gateway.engine.active_streams == 1)
        late = await client.post(CHAT, json=ask(max_tokens=2, stream=stream))
        tap.go.set()
        assert (await running).status_code == 200
    assert late.status_code == 503
    assert int(late.headers["retry-after"]) >= 1
    assert late.json()["error"]["code"] == "overloaded"


@pytest.mark.anyio
async def test_a_stream_that_has_begun_says_it_within(make_gateway, backbone, head, monkeypatch):
    monkeypatch.setattr("lockgate.gateway._answers.PING_SECONDS", 0.05)
    tap = StuckTap([head], backbone.hidden_size)
    tap.stuck.set()
    scoring = scoring_for(backbone, head, tap=tap)
    gateway = make_gateway(backbone, scoring, max_streams=1, queue_timeout=1)
    async with client_for(gateway) as client:
        running = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=2)))
        await eventually(lambda: gateway.engine.active_streams == 1)
        late = events_of(await client.post(CHAT, json=ask(max_tokens=2, stream=True)))
        tap.go.set()
        await running
    assert [event["error"]["code"] for event in late] == ["overloaded"]
    assert [line["decision"] for line in decisions_of(gateway)] == ["cancelled", "pass"]
