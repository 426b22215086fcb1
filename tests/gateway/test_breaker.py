"""The circuit breaker, against a model of it, and with the upstream and the second stage behind it."""

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from relaying import relayed
from scripted_upstream import Reply, chat_stream
from serving import CHAT, ask, decisions_of, events_of, scoring_for, text_of
from staging import staged
from test_given import BACKBONE, HEAD

from lockgate.errors import ConfigError
from lockgate.gateway._breaker import Breaker, BreakerOptions

PAUSE = 10.0
DEAD = Reply([b"<html>"], 503, "text/html")
STREAM = Reply([chat_stream(["The lock", " holds."])])


class BreakerModel(RuleBasedStateMachine):
    """A breaker lets all attempts through, none, or one at a time, as its definition says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(BreakerOptions(3, PAUSE), clock=lambda: self.now)
        self.failed = 0
        self.opened: float | None = None
        self.probing = False

    @rule(seconds=st.sampled_from([1.0, 4.0, PAUSE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(ending=st.sampled_from(["succeed", "fail"]))
    @precondition(lambda self: not self.probing)
    def attempt(self, ending: str) -> None:
        allowed = self.opened is None or self.now >= self.opened + PAUSE
        assert self.breaker.enter() == allowed
        if not allowed:
            return
        getattr(self.breaker, ending)()
        if ending == "succeed":
            self.failed, self.opened = 0, None
        else:
            self.failed += 1
            if self.failed >= 3:
                self.opened = self.now

    @rule()
    @precondition(lambda self: not self.probing and self.opened is not None)
    def begin_probe(self) -> None:
        self.probing = self.breaker.enter()
        assert self.probing == (self.now >= self.opened + PAUSE)

    @rule()
    @precondition(lambda self: self.probing)
    def leave_probe(self) -> None:
        self.breaker.leave()
        self.probing = False

    @invariant()
    def says_what_it_does(self) -> None:
        assert self.breaker.is_open == (self.opened is not None)
        if self.probing:
            assert not self.breaker.enter()
            assert self.breaker.wait >= 1
        elif self.opened is not None:
            assert self.breaker.wait == max(0.0, self.opened + PAUSE - self.now)


TestBreakerModel = BreakerModel.TestCase


@pytest.mark.parametrize(("failures", "pause"), [(0, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_settings_without_a_meaning_are_errors(failures, pause) -> None:
    with pytest.raises(ConfigError, match="breaker"):
        BreakerOptions(failures, pause)


@pytest.mark.anyio
async def test_an_upstream_that_is_down_is_not_asked_for_a_while(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    breaker = BreakerOptions(failures=2, pause=0.5)
    async with relayed(gateway, DEAD, DEAD, STREAM, retries=0, breaker=breaker) as (client, upstream):
        for _ in range(2):
            assert (await client.post(CHAT, json=ask())).status_code == 503
        refused = await client.post(CHAT, json=ask(stream=True))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_down")
        assert refused.headers["retry-after"] == "1"
        assert len(upstream.requests) == 2
        told = (await client.get("/readyz")).json()
        assert told["status"] == "degraded"
        assert told["upstreams"]["upstream"]["status"] == "down"
        assert any("upstream" in problem for problem in told["problems"])
        await anyio.sleep(0.6)
        assert text_of(events_of(await client.post(CHAT, json=ask(stream=True)))) == "The lock holds."
        assert (await client.get("/readyz")).json()["status"] == "ready"


@pytest.mark.anyio
async def test_streams_that_break_off_count_and_refusals_do_not(make_gateway) -> None:
    gateway = make_gateway(BACKBONE, scoring_for(BACKBONE, HEAD))
    slow = Reply([b'{"error": {"message": "slow down"}}'], 429, "application/json")
    broken = Reply([STREAM.parts[0][:40]], whole=False)
    breaker = BreakerOptions(failures=2, pause=60)
    async with relayed(gateway, *[slow] * 3, broken, broken, STREAM, breaker=breaker) as (client, upstream):
        for _ in range(3):
            assert (await client.post(CHAT, json=ask(stream=True))).status_code == 429
        for _ in range(2):
            assert "upstream_broke_off" in (await client.post(CHAT, json=ask(stream=True))).text
        refused = await client.post(CHAT, json=ask(stream=True))
    assert refused.json()["error"]["code"] == "upstream_down"
    assert 50 < int(refused.headers["retry-after"]) <= 60
    assert len(upstream.requests) == 5


@pytest.mark.anyio
async def test_a_second_stage_that_is_down_is_not_waited_for(make_gateway) -> None:
    scoring, made = staged(BACKBONE, HEAD)
    breaker = BreakerOptions(failures=2, pause=60)
    gateway = make_gateway(BACKBONE, scoring, verdict_breaker=breaker, verdict_timeout=0.3)
    made[0].stuck.set()
    async with relayed(gateway, STREAM) as (client, _):
        for _ in range(2):
            assert "refusal" in (await client.post(CHAT, json=ask(stream=True))).text
        asked = made[0].entered.is_set()
        last = await client.post(CHAT, json=ask(stream=True))
        told = (await client.get("/readyz")).json()
        made[0].go.set()
    assert asked
    assert "lock" not in last.text
    reasons = [line["reason"] for line in decisions_of(gateway)]
    assert "came too late" in reasons[0]
    assert "failed too often" in reasons[-1]
    assert told["status"] == "degraded"
    assert any("second stage" in problem for problem in told["problems"])
