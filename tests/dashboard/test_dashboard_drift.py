"""The alarm of drift: it follows the log in parts, counts each exchange once, and stays."""

import dataclasses
import random
import re

import msgspec
import pytest
from desks import FLAG, RECORD, SHA, exchange, fill, house_in
from logs import opened_log
from scipy import stats

from lockgate.calibration import Calibration
from lockgate.calibration.drift import Seen, observe
from lockgate.dashboard import served_guard
from lockgate.dashboard._desk import Call, Viewer
from lockgate.dashboard._drift import FALSE_ALARMS, _asked, follow_drift
from lockgate.decisions import LogReader, purge_log
from lockgate.guards import EMBEDDED

GUARD = served_guard(EMBEDDED, "embedded", SHA, calibrated=True)
CALIBRATION = GUARD.calibration
LOW, HIGH = -3.0, FLAG - 0.2  # below the 0.999 quantile and above it


def call_of(house, role="admin", tenant="canal"):
    who = Viewer(tenant, "k", "n", role, "canal/n")
    return Call(house.dashboard._desk, who, "", {}, {}, {})


def follow(house, *who):
    call = call_of(house, *who)
    return follow_drift(call, call.desk.guard)


def numbers(drift):
    return {share.quantile: (share.seen.n, share.seen.hits) for share in drift.shares}


def write(house, scores, start=0, **fields):
    fill(house.log, [exchange(start + n, "mill", score, **fields) for n, score in enumerate(scores)], "none")


def test_the_claims_are_those_of_the_calibration():
    asked = _asked(GUARD, CALIBRATION)
    assert list(asked) == ["0.999", "flagged"]
    assert sum(about.claim.alarm for about in asked.values()) < FALSE_ALARMS
    band, flagged = asked["0.999"], asked["flagged"]
    assert band.claim.lower < 0.001 < band.claim.upper
    assert stats.binom.cdf(12, CALIBRATION.n, band.claim.upper) < 0.01
    assert (flagged.claim.lower, flagged.claim.upper) == (0.0, 0.0005)
    above = {**RECORD.calibration, "quantiles": {"0.5": -1.0, "0.99": 0.0, "0.9999": FLAG + 1, "1": 9.0}}
    assert list(_asked(GUARD, Calibration.from_dict(above))) == ["0.5", "0.99", "flagged"]


@pytest.mark.parametrize("most", [7, 10_000])
def test_looks_in_parts_see_each_exchange_once(any_house, monkeypatch, most):
    house = any_house
    monkeypatch.setattr(
        LogReader, "onward", lambda self, seen, _=0, real=LogReader.onward: real(self, seen, most)
    )
    draw = random.Random(3)
    scores = [HIGH if draw.random() < 0.2 else LOW for _ in range(30)] + [FLAG + 1] * 3
    write(house, scores[:20])
    looks = [follow(house)]
    assert looks[0].more == (most < 20)
    write(house, scores[20:], start=20)
    while (look := follow(house)).more or numbers(look)[None][0] < len(scores):
        looks.append(look)
    assert len(looks) == (4 if most == 7 else 1)
    assert numbers(look) == {
        "0.999": (33, sum(score > HIGH - 0.1 for score in scores)),
        None: (33, 3),
    }
    again = follow(house)
    assert again == look
    about = _asked(GUARD, CALIBRATION)["0.999"]
    order = [score > about.value for score in scores]
    assert again.shares[0].seen == observe(Seen(), order, about.claim)


def test_the_alarm_comes_stays_and_is_on_both_pages(house):
    client = house.signed_in("canal", "ada", "admin")
    write(house, [LOW] * 30)
    for path in ("/", "/scores"):
        assert "<strong>Drift</strong>" not in client.get(f"/admin{path}").text
    write(house, [HIGH] * 40, start=30)
    for path in ("/", "/live", "/scores"):
        assert "<strong>Drift</strong> since" in client.get(f"/admin{path}").text
    text = client.get("/admin/scores").text
    assert re.findall(r"<td>(Left|Within)", text) == ["Left", "Within"]
    since = follow(house).since
    write(house, [LOW] * 50, start=70)
    assert follow(house).n == 120
    purge_log(house.log, "2100-01-01T00:00:00.000Z", "operator")
    look = follow(house)
    assert (look.since, look.n, look.more) == (since, 120, False)


def test_flags_beyond_the_budget_raise_it(house):
    write(house, [LOW] * 40 + [FLAG + 1] * 3 + [LOW] * 20)
    look = follow(house)
    assert [share.since is not None for share in look.shares] == [False, True]


def test_only_exchanges_that_the_guard_has_checked_to_their_end_count(house):
    write(house, [HIGH])
    others = [
        {"guard": "cd" * 32},
        {"decision": "error"},
        {"decision": "cancelled"},
        {"unguarded": True},
        {"lowered": 0.5},
        {"choice": 1},
    ]
    for number, fields in enumerate(others):
        write(house, [HIGH], start=10 + number, **fields)
    assert numbers(follow(house)) == {"0.999": (1, 1), None: (1, 0)}


def test_a_reviewer_has_a_test_of_its_own_exchanges(house):
    fill(house.log, [exchange(n, "mill" if n % 3 else "harbour", HIGH) for n in range(60)], "none")
    mill = follow(house, "reviewer", "mill")
    harbour = follow(house, "reviewer", "harbour")
    every = follow(house)
    assert [look.n for look in (mill, harbour, every)] == [40, 20, 60]
    assert follow(house, "reviewer", "ferry").n == 0


def test_a_look_that_comes_too_late_counts_nothing_twice(house, monkeypatch):
    write(house, [HIGH] * 5)
    desk = house.dashboard._desk
    real = desk.kept.keep_state

    def slow(guard, scope, version, state):
        # Meanwhile another server has looked, and has more.
        monkeypatch.undo()
        write(house, [LOW] * 2, start=5)
        assert follow(house).n == 7
        return real(guard, scope, version, state)

    monkeypatch.setattr(desk.kept, "keep_state", slow)
    assert follow(house).n == 7
    assert follow(house).n == 7


def test_another_log_of_the_same_operations_database_counts_too(tmp_path):
    where = tmp_path / "operations.db"
    with house_in(tmp_path / "a", operations=where) as one, house_in(tmp_path / "b", operations=where) as two:
        write(one, [LOW] * 3)
        write(two, [HIGH] * 2)
        assert [follow(house).n for house in (one, two, one, two)] == [3, 5, 5, 5]


def test_another_guard_begins_anew_and_without_a_calibration_there_is_none(tmp_path):
    guards = [GUARD]
    with house_in(tmp_path) as house:
        desk = house.dashboard._desk
        desk.options = dataclasses.replace(desk.options, guard=lambda: guards[-1])
        write(house, [HIGH] * 40)
        assert follow(house).since is not None
        guards.append(dataclasses.replace(GUARD, sha256="cd" * 32))
        write(house, [LOW] * 3, start=40, guard="cd" * 32)
        look = follow(house)
        assert (look.n, look.since) == (3, None)
        guards.append(dataclasses.replace(GUARD, calibrated=False))
        assert follow(house) is None
        guards.append(None)
        assert follow(house) is None


def test_what_is_kept_holds_no_exchange(house):
    log = opened_log(house.log)
    log.write(exchange(1, "mill", HIGH))
    log.close()
    follow(house)
    kept = msgspec.json.decode(house.dashboard._desk.kept.state(SHA, "*")[1])
    assert set(kept) == {"seen", "first", "last", "shares", "since"}
    assert "chatcmpl" not in str(kept)
