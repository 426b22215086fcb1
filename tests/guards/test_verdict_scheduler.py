"""The packing of verdicts, with a second stage whose memory and faults the test controls."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.backbones import RenderedChat
from lockgate.errors import ConfigError, PoolFull
from lockgate.guards import Ask, Conversation, VerdictScheduler

SUFFIX = 5


@dataclass
class Session:
    source: "Source"
    capacity: int
    tokens: list[int]
    read: int = 0
    is_open: bool = True

    @property
    def length(self):
        return len(self.tokens)

    def cost(self, new_tokens):
        return self.length - self.read + new_tokens + SUFFIX

    def close(self):
        self.source.used -= self.capacity * self.is_open
        self.is_open = False


@dataclass
class Source:
    """Gives the sum of the tokens as a verdict. Notes what every step has cost."""

    memory: float = math.inf
    reads_in_pieces: bool = True
    most_together: float = math.inf
    used: int = 0
    steps: list[list[int]] = field(default_factory=list)

    def open(self, chat, capacity):
        if self.used + capacity > self.memory:
            raise PoolFull("full")
        self.used += capacity
        return Session(self, capacity, list(chat.token_ids[: chat.answer_start]))

    def judge(self, asks):
        assert all(session.is_open for session, _ in asks)
        assert len({id(session) for session, _ in asks}) == len(asks)
        costs = [session.cost(len(new)) for session, new in asks]
        for session, new in asks:
            session.tokens.extend(new)
        if len(asks) > self.most_together:
            raise RuntimeError("too many")
        self.steps.append(costs)
        for session, _ in asks:
            session.read = session.length
        return [float(sum(session.tokens)) for session, _ in asks]

    def flops(self, session, cost):
        return 2.0 * cost

    def close(self):
        self.memory = 0


def conversation(prompt, answer, number=0):
    ids = [(number + 3 * place) % 50 for place in range(prompt)]
    chat = RenderedChat(ids, 0, [], 0, prompt, prompt)
    return Conversation(chat, prompt + answer, [(number + place) % 7 for place in range(answer)])


def expected(ask):
    return float(sum(ask.conversation.tokens(0, ask.end)))


def settle(scheduler, asks, limit=1000):
    """Hand in what waits until all is over; what each ask was given."""
    waiting, given = list(asks), []
    while waiting:
        limit -= 1
        assert limit, "an ask starves"
        for found in scheduler.step(waiting):
            given.append(found)
            if found.over:
                waiting.remove(found.ask)
    return given


@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30)), min_size=1, max_size=8),
    step_tokens=st.integers(10, 120),
    piece_tokens=st.one_of(st.none(), st.integers(4, 40)),
    in_pieces=st.booleans(),
    scarce=st.booleans(),
    most_together=st.sampled_from([1, 2, math.inf]),
)
def test_every_ask_gets_its_own_verdict_once(
    shapes, step_tokens, piece_tokens, in_pieces, scarce, most_together
):
    conversations = [conversation(*shape, number) for number, shape in enumerate(shapes)]
    memory = max(one.capacity for one in conversations) if scarce else math.inf
    source = Source(memory, in_pieces, most_together)
    with VerdictScheduler(source, step_tokens=step_tokens, piece_tokens=piece_tokens) as scheduler:
        for share in (0.5, 1.0):  # every conversation is asked about twice, as it grows
            asks = [Ask(one, one.chat.answer_start + int(share * len(one.answer))) for one in conversations]
            given = settle_and_forget(scheduler, asks) if scarce else settle(scheduler, asks)
            over = [found for found in given if found.over]
            assert [found.error for found in over] == [None] * len(asks)
            assert {id(found.ask): found.logit for found in over} == {id(ask): expected(ask) for ask in asks}
        assert source.used <= memory
        for costs in source.steps:
            assert len(costs) == 1 or sum(costs) <= step_tokens
            if piece_tokens is not None and in_pieces:
                assert max(costs) <= piece_tokens + min(piece_tokens, 60) + SUFFIX
    assert source.used == 0


def settle_and_forget(scheduler, asks):
    """As a file is scored: whatever has its verdict gives its memory back."""
    given, waiting = [], list(asks)
    while waiting:
        for found in scheduler.step(waiting):
            given.append(found)
            if found.over:
                waiting.remove(found.ask)
                scheduler.forget(found.ask.conversation)
    return given


def test_steps_are_filled_in_the_order_of_asking() -> None:
    source = Source()
    asks = [Ask(conversation(size, 0, size), size) for size in (20, 90, 10, 10)]
    with VerdictScheduler(source, step_tokens=60) as scheduler:
        first = scheduler.step(asks)
        assert [found.ask for found in first] == asks[:1]  # the next does not fit, and nobody overtakes it
        second = scheduler.step(asks[1:])
        assert [found.ask for found in second] == asks[1:2]  # too long for any step: alone
        assert [found.ask for found in scheduler.step(asks[2:])] == asks[2:]
    assert source.steps == [[25], [95], [15, 15]]


def test_costs_are_those_of_the_source() -> None:
    with VerdictScheduler(Source(), step_tokens=100, piece_tokens=16) as scheduler:
        ask = Ask(conversation(40, 4), 44)
        given = settle(scheduler, [ask])
    # The first piece opens the session and another one follows it in the same step.
    assert sum(found.tokens for found in given) == 44 + SUFFIX * len(given)
    assert all(found.flops == 2.0 * found.tokens for found in given)
    assert [found.over for found in given] == [False] * (len(given) - 1) + [True]


def test_memory_goes_from_those_that_are_not_asked_about_to_those_that_are() -> None:
    source = Source(memory=100)
    one, two, three = (conversation(40, 10, number) for number in range(3))
    with VerdictScheduler(source) as scheduler:
        settle(scheduler, [Ask(one, 42), Ask(two, 42)])
        assert scheduler.holds(one) == scheduler.holds(two) == 42
        settle(scheduler, [Ask(two, 44)])  # the newest of them
        settle(scheduler, [Ask(three, 42)])
        assert (scheduler.holds(one), scheduler.holds(two), scheduler.holds(three)) == (0, 44, 42)
        # Two that are asked about leave nothing for a third: it waits, and is refused nothing.
        waiting = [Ask(two, 46), Ask(three, 44), Ask(one, 44)]
        assert {id(found.ask) for found in scheduler.step(waiting)} == {id(ask) for ask in waiting[:2]}
        assert settle(scheduler, waiting[2:])[-1].logit == expected(waiting[2])


def test_what_no_memory_can_hold_is_refused() -> None:
    with VerdictScheduler(Source(memory=30)) as scheduler:
        long, short = Ask(conversation(40, 0), 40), Ask(conversation(20, 0), 20)
        found = {id(given.ask): given for given in scheduler.step([long, short])}
        assert isinstance(found[id(long)].error, PoolFull)
        assert found[id(short)].logit == expected(short)
        with pytest.raises(PoolFull):
            scheduler.verdict_on(Ask(conversation(40, 0), 40))


def test_only_what_fails_alone_gets_the_error() -> None:
    class Picky(Source):
        def judge(self, asks):
            found = super().judge(asks)
            if math.fsum(found) >= 1000:
                raise ValueError("private")
            return found

    good = [Ask(conversation(5, 0, number), 5) for number in range(3)]
    bad = Ask(conversation(60, 0), 60)
    assert expected(bad) >= 1000 > sum(map(expected, good))
    with VerdictScheduler(Picky()) as scheduler:
        over = {id(found.ask): found for found in settle(scheduler, [good[0], bad, *good[1:]]) if found.over}
    assert isinstance(over[id(bad)].error, ValueError)
    assert [over[id(ask)].logit for ask in good] == [expected(ask) for ask in good]


def test_without_a_second_stage_nobody_may_ask() -> None:
    with VerdictScheduler(None) as scheduler:
        assert scheduler.step([]) == []
        with pytest.raises(ConfigError, match="there is no second stage"):
            scheduler.step([Ask(conversation(3, 0), 3)])
