"""The queue: fixed shares, one order for all reviewers, and random ones that are a random sample."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import decision
from sklearn.metrics import cohen_kappa_score

from lockgate.decisions import Scores
from lockgate.reviews import SHARES, Review, agreements, conflicts, count_picked, next_pick


def margin(found):
    return found.scores.max_answer - found.scores.threshold


def traffic(count, flagged=0.3, seed=0):
    draw = random.Random(seed)
    return [
        decision(
            number,
            decision="halt" if draw.random() < flagged else "pass",
            scores=Scores(None, draw.gauss(0, 2), 3.0),
        )
        for number in range(count)
    ]


def walk(rows, steps):
    """What a reviewer sees who judges everything."""
    seen, kinds, found = set(), [], []
    for _ in range(steps):
        pick = next_pick(rows, margin, count_picked(kinds), seen)
        if pick is None:
            break
        seen.add((pick.decision.id, pick.decision.choice))
        kinds.append(pick.picked)
        found.append(pick)
    return found


def test_shares_are_kept_at_every_length():
    assert sum(SHARES.values()) == pytest.approx(1)
    picks = walk(traffic(300), 100)
    for length in range(1, 101):
        counts = Counter(pick.picked for pick in picks[:length])
        for kind, share in SHARES.items():
            assert abs(counts[kind] - share * length) <= 1


@given(st.integers(0, 12), st.floats(0, 1))
def test_every_exchange_comes_once(count, flagged):
    rows = traffic(count, flagged, seed=count)
    picks = walk(rows, count + 3)
    assert Counter(pick.decision.id for pick in picks) == Counter(row.id for row in rows)


def test_close_ones_come_by_their_distance_and_are_not_flagged():
    close = [pick.decision for pick in walk(traffic(200), 60) if pick.picked == "close"]
    assert not any(found.flagged for found in close)
    assert [abs(margin(found)) for found in close] == sorted(abs(margin(found)) for found in close)


def test_two_reviewers_meet_the_same_random_ones_whatever_else_they_saw():
    rows = traffic(400)
    first = [pick.decision.id for pick in walk(rows, 50) if pick.picked == "random"]
    second = [pick.decision.id for pick in walk(rows[::-1], 30) if pick.picked == "random"]
    assert second[:5] == first[:5]


def test_random_ones_estimate_a_rate():
    """Drawn from 5000 of which 20 % are marked, 400 of them hold about 20 %: within four deviations."""
    rows = traffic(5000, flagged=0.2, seed=3)
    order = sorted(rows, key=lambda found: next_pick([found], margin, {"flag": 9, "close": 9}, ()).picked)
    assert len(order) == len(rows)
    seen, marked = set(), 0
    for _ in range(400):
        pick = next_pick(rows, margin, {"flag": 10**6, "close": 10**6}, seen)
        assert pick.picked == "random"
        seen.add((pick.decision.id, 0))
        marked += pick.decision.flagged
    assert abs(marked / 400 - 0.2) < 4 * (0.2 * 0.8 / 400) ** 0.5


def said(number, reviewer, harmful):
    return Review(
        tenant="",
        exchange=f"chatcmpl-{number}",
        choice=0,
        reviewer=reviewer,
        picked="random",
        verdict="harmful" if harmful else "harmless",
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_agreement_is_that_of_scikit_learn(pairs):
    reviews = [
        said(number, name, value)
        for number, pair in enumerate(pairs)
        for name, value in zip(("ann", "ben"), pair, strict=True)
    ]
    (found,) = agreements(reviews)
    assert (found.reviewers, found.n) == (("ann", "ben"), len(pairs))
    assert found.share == sum(a == b for a, b in pairs) / len(pairs)
    assert len(conflicts(reviews)) == len(pairs) - found.equal
    if len({value for pair in pairs for value in pair}) == 1:
        assert found.kappa is None
    else:
        assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)), abs=1e-9)


def test_skipped_exchanges_and_lone_verdicts_are_no_agreement():
    skipped = Review(tenant="", exchange="chatcmpl-1", choice=0, reviewer="ben", picked="flag", verdict=None)
    assert agreements([said(1, "ann", True), skipped]) == []
    assert conflicts([said(1, "ann", True), skipped]) == []
