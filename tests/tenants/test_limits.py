"""Limits of tenants: exact at one server, and never exceeded by several that share a database."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyholders import Moment
from sqlalchemy import update

from lockgate.errors import OperationsError
from lockgate.tenants import Limits, Refusal, Settings, Tenants, Use
from lockgate.tenants._limits import FULL_SECONDS, PAUSE_SECONDS
from lockgate.tenants._pools import GRACE_SECONDS, LEASE_SECONDS, OwnPool, SharedPool
from lockgate.tenants._schema import LEASES

# A bucket that does not fill while a test runs.
STILL = Settings(requests_per_minute=0.001, burst=10)


def alone(moment):
    return Limits(OwnPool(moment), moment)


def entered(limits, tenant, settings):
    """What a request meets: it waits for the database if that must be asked."""
    found = limits.try_enter(tenant, settings)
    return limits.enter(tenant, settings) if found is None else found


def test_a_bucket_lets_its_burst_through_and_then_its_rate():
    moment = Moment()
    limits = alone(moment)
    settings = Settings(requests_per_minute=6, burst=3)
    found = [limits.try_enter("a", settings) for _ in range(4)]
    assert [isinstance(one, Refusal) for one in found] == [False, False, False, True]
    assert found[3] == Refusal("requests", pytest.approx(10))
    moment.now += 5
    assert limits.try_enter("a", settings) == Refusal("requests", pytest.approx(5))
    moment.now += 5
    assert not isinstance(limits.try_enter("a", settings), Refusal)
    assert isinstance(limits.try_enter("a", settings), Refusal)


def test_what_is_in_use_is_told_and_nothing_is_taken():
    moment = Moment()
    limits = alone(moment)
    settings = Settings(requests_per_minute=60, burst=10, tokens_per_minute=600, concurrent=3)
    assert limits.use("a", settings) == Use(0, {"requests": 10, "tokens": 600})
    leaves = [limits.enter("a", settings) for _ in range(2)]
    limits.spend("a", 100)
    for _ in range(3):
        assert limits.use("a", settings) == Use(2, {"requests": 8, "tokens": pytest.approx(500)})
    # It owes at most what flows in within a minute.
    limits.spend("a", 700)
    assert limits.use("a", settings).left["tokens"] == pytest.approx(0, abs=1)
    for leave in leaves:
        leave()
    moment.now += 1
    assert limits.use("a", settings) == Use(0, {"requests": 9, "tokens": pytest.approx(1, abs=1)})
    moment.now += 3600
    assert limits.use("a", settings).left["requests"] == 10
    assert limits.use("b", Settings()) == Use(0, {})


@given(
    st.floats(0.5, 600),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from("abc")), max_size=60),
)
def test_buckets_agree_with_a_plain_count(rate, burst, steps):
    """Each tenant gets what an exact bucket gives it, whatever the others do."""
    moment = Moment(0.0)
    limits = alone(moment)
    settings = Settings(requests_per_minute=rate, burst=burst)
    levels, seen = dict.fromkeys("abc", float(burst)), dict.fromkeys("abc", 0.0)
    for wait, tenant in steps:
        moment.now += wait
        level = min(burst, levels[tenant] + (moment.now - seen[tenant]) * rate / 60)
        seen[tenant] = moment.now
        found = limits.try_enter(tenant, settings)
        if abs(level - 1) > 1e-3:  # what the sums of floats decide may go either way
            assert isinstance(found, Refusal) == (level < 1)
        levels[tenant] = level if isinstance(found, Refusal) else level - 1


def test_requests_at_a_time_are_counted_until_they_leave():
    limits = alone(Moment())
    settings = Settings(concurrent=2)
    leave = [limits.try_enter("a", settings) for _ in range(2)]
    assert limits.try_enter("a", settings) == Refusal("concurrent", 1.0)
    assert not isinstance(limits.try_enter("b", settings), Refusal)
    leave[0]()
    assert not isinstance(limits.try_enter("a", settings), Refusal)
    assert limits.in_use("a") == 2


def test_a_refused_request_takes_no_slot_and_no_token():
    moment = Moment()
    limits = alone(moment)
    settings = Settings(requests_per_minute=60, burst=1, concurrent=5)
    leave = limits.try_enter("a", settings)
    leave()
    for _ in range(10):
        assert isinstance(limits.try_enter("a", settings), Refusal)
    assert limits.in_use("a") == 0
    moment.now += 1
    assert not isinstance(limits.try_enter("a", settings), Refusal)


def test_tokens_are_a_debt_that_is_paid_by_time():
    moment = Moment()
    limits = alone(moment)
    settings = Settings(tokens_per_minute=60)
    assert not isinstance(limits.try_enter("a", settings), Refusal)
    limits.spend("a", 90)
    limits.spend("b", 10**9)  # has no such limit
    found = limits.try_enter("a", settings)
    assert isinstance(found, Refusal)
    assert found.limit == "tokens"
    moment.now += found.wait + 0.01
    assert not isinstance(limits.try_enter("a", settings), Refusal)
    assert not isinstance(limits.try_enter("b", Settings()), Refusal)


@pytest.fixture
def replicas(postgres):
    """Opens replicas over one database, in which `acme` is a tenant."""
    address, made = postgres.database(), []

    def open_one(**options):
        one = Tenants(address, **options)
        one.open()
        made.append(one)
        return one

    first = open_one()
    first.add_tenant("acme")
    yield open_one, address
    for one in made:
        one.close()


def test_what_is_left_is_that_of_all_replicas(replicas):
    open_one, _ = replicas
    one, other = open_one(), open_one()
    settings = Settings(requests_per_minute=0.001, burst=10)
    for _ in range(4):
        assert not isinstance(one.limits.enter("acme", settings), Refusal)
    assert one.limits.use("acme", settings) == Use(4, {"requests": pytest.approx(6, abs=0.01)})
    assert other.limits.use("acme", settings) == Use(0, {"requests": pytest.approx(6, abs=0.01)})


def test_replicas_share_a_bucket(replicas):
    open_one, _ = replicas
    limits = [open_one().limits for _ in range(3)]

    def ask(number):
        return entered(limits[number % 3], "acme", STILL)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(60)))
    assert sum(not isinstance(one, Refusal) for one in found) == 10
    assert {one.limit for one in found if isinstance(one, Refusal)} == {"requests"}


def test_replicas_share_slots_and_give_them_back(replicas):
    open_one, _ = replicas
    first, second = (open_one().limits for _ in range(2))
    settings = Settings(concurrent=3)
    leave = [entered(one, "acme", settings) for one in (first, second, first)]
    assert not any(isinstance(one, Refusal) for one in leave)
    assert isinstance(entered(second, "acme", settings), Refusal)
    leave[0]()
    leave[2]()
    first.close()
    second._states["acme"].full_until = 0.0
    assert not isinstance(entered(second, "acme", settings), Refusal)


def test_slots_of_a_killed_replica_come_back(replicas):
    open_one, address = replicas
    settings = Settings(concurrent=1)
    program = (
        "import os, sys; from lockgate.tenants import Settings, Tenants\n"
        "one = Tenants(sys.argv[1]); one.open()\n"
        "assert callable(one.limits.enter('acme', Settings(concurrent=1)))\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, address], check=False)
    assert killed.returncode == -9
    here = open_one()
    assert isinstance(entered(here.limits, "acme", settings), Refusal)
    for passed in (LEASE_SECONDS, GRACE_SECONDS):
        assert isinstance(entered(here.limits, "acme", settings), Refusal)
        pass_by(here.database, passed)
        here.limits._states["acme"].full_until = 0.0
    assert not isinstance(entered(here.limits, "acme", settings), Refusal)


def pass_by(database, seconds):
    """Let the time of all leases pass, as the database's clock has it."""
    with database.writing() as connection:
        times = {name: LEASES.c[name] - seconds for name in ("expires", "late_since")}
        connection.execute(update(LEASES).values(**times))


def opened(leaves):
    """The requests among what was met that are open."""
    return [one for one in leaves if not isinstance(one, Refusal)]


def test_an_outage_lends_no_slot_twice_and_ends_by_itself(replicas, postgres):
    """All leases run out meanwhile. Whoever is quicker after it gets what is free, and nothing more."""
    open_one, _ = replicas
    moment = Moment()
    databases = [open_one().database for _ in range(2)]
    one, other = (
        Limits(SharedPool(database, name), moment) for database, name in zip(databases, "ab", strict=True)
    )
    settings = Settings(concurrent=3)
    open_here = opened([entered(one, "acme", settings) for _ in range(2)])
    assert len(open_here) == 2
    postgres.stop()
    try:
        moment.now += LEASE_SECONDS / 3
        one.tend()
        assert "database" in one.fault
        moment.now += LEASE_SECONDS
        for limits in (one, other):
            with pytest.raises(OperationsError):
                entered(limits, "acme", settings)
            # A tenant without limits goes on.
            assert not isinstance(limits.try_enter("free", Settings()), Refusal)
    finally:
        postgres.start()
    pass_by(databases[0], LEASE_SECONDS)
    moment.now += PAUSE_SECONDS
    open_there = opened([entered(other, "acme", settings) for _ in range(3)])
    assert len(open_there) == 1
    one.tend()
    assert (one.fault, one.in_use("acme")) == (None, 2)
    pass_by(databases[0], GRACE_SECONDS)
    moment.now += FULL_SECONDS
    assert opened([entered(limits, "acme", settings) for limits in (one, other)]) == []
    open_here.pop()()
    moment.now += FULL_SECONDS
    assert len(opened([entered(one, "acme", settings)])) == 1


def test_a_replica_that_never_comes_back_is_missed_first(replicas):
    open_one, _ = replicas
    moment = Moment()
    database = open_one().database
    one, other = (Limits(SharedPool(database, name), moment) for name in "ab")
    settings = Settings(concurrent=2)
    assert len(opened([entered(one, "acme", settings) for _ in range(2)])) == 2
    pass_by(database, LEASE_SECONDS)
    assert opened([entered(other, "acme", settings)]) == []
    moment.now += FULL_SECONDS
    pass_by(database, GRACE_SECONDS / 2)
    assert opened([entered(other, "acme", settings)]) == []
    moment.now += FULL_SECONDS
    pass_by(database, GRACE_SECONDS / 2)
    assert len(opened([entered(other, "acme", settings)])) == 1


def test_a_fault_is_over_without_a_request(replicas, postgres):
    open_one, _ = replicas
    moment = Moment()
    limits = Limits(SharedPool(open_one().database, "a"), moment)
    postgres.stop()
    try:
        with pytest.raises(OperationsError):
            entered(limits, "acme", STILL)
        limits.tend()
        assert limits.fault is not None
    finally:
        postgres.start()
    limits.tend()
    assert limits.fault is None


def test_a_slot_in_use_is_never_lent_twice(replicas):
    """Requests come and go on two replicas, while both tend their leases all the time."""
    open_one, _ = replicas
    limits = [Limits(SharedPool(open_one().database, name)) for name in ("one", "two")]
    settings, lock = Settings(concurrent=3), threading.Lock()
    open_now, most = 0, 0

    def work(number):
        nonlocal open_now, most
        one = limits[number % 2]
        for _ in range(15):
            leave = entered(one, "acme", settings)
            if isinstance(leave, Refusal):
                one._states["acme"].full_until = 0.0
                continue
            with lock:
                open_now += 1
                most = max(most, open_now)
            one.tend(ending=True)
            with lock:
                open_now -= 1
            leave()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 1 <= most <= 3


def test_without_the_database_nobody_enters(replicas):
    open_one, _ = replicas
    one = open_one()
    one.database.close()
    with pytest.raises(OperationsError):
        one.limits.enter("acme", STILL)
    with pytest.raises(OperationsError, match="just now"):
        one.limits.enter("acme", Settings(concurrent=3))
    assert not isinstance(one.limits.try_enter("acme", Settings()), Refusal)
    one.database.open()
    one.limits._down_until = 0.0
    assert not isinstance(one.limits.enter("acme", STILL), Refusal)


def test_most_requests_are_decided_without_the_database(replicas):
    open_one, _ = replicas
    limits = open_one().limits
    settings = Settings(requests_per_minute=60_000, burst=400, concurrent=40)
    asked = 0
    for _ in range(100):
        leave = limits.try_enter("acme", settings)
        if leave is None:
            asked += 1
            leave = limits.enter("acme", settings)
        leave()
    assert 1 <= asked <= 20
