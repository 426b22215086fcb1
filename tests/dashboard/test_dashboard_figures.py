"""Figures against plain counting, exact intervals and scikit-style oracles."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from desks import FLAG, RECORD, SHA, exchange
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lockgate.dashboard._figures import (
    by_stage,
    by_tenant,
    figures,
    over_time,
    rate,
    spread,
    text_of,
    time_of,
)
from lockgate.dashboard._scores import BINS, at_threshold, histogram, margin_of, recorded, stability
from lockgate.dashboard._templates import milliseconds, moment, number, percent, signed
from lockgate.decisions import Line, Scores

KINDS = st.sampled_from(["pass", "halt", "block", "error", "cancelled"])


@given(st.lists(st.tuples(KINDS, st.sampled_from(["", "mill", "harbour"]), st.sampled_from([None, 1, 2]))))
def test_counts_are_those_of_counting(rows):
    made = [
        exchange(place, tenant, decision=kind, stage=stage, enforced=place % 2 == 0)
        for place, (kind, tenant, stage) in enumerate(rows)
    ]
    found = figures(made)
    assert found.n == len(rows)
    assert all(found.counts[kind] == sum(row[0] == kind for row in rows) for kind in found.counts)
    flagged = [one for one in made if one.decision in ("halt", "block")]
    assert (found.refused.k, found.unenforced) == (len(flagged), sum(not one.enforced for one in flagged))
    assert found.refused.n == len(flagged) + sum(row[0] == "pass" for row in rows)
    assert found.escalated.n == sum(row[2] is not None for row in rows)
    assert sum(own.n for own in by_tenant(made).values()) == len(rows)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 1, 2]),
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(0, 3),
            st.booleans(),
        )
    )
)
def test_the_cost_of_stages_is_that_of_counting(rows):
    made, prompts = [], {1: 0, 2: 0}
    for place, (stage, prompt, answer, verdicts, twice) in enumerate(rows):
        first = exchange(
            place, stage=stage, prompt_tokens=prompt, completion_tokens=answer, verdicts=verdicts,
            total_ms=float(place), first_token_ms=None if place % 3 else float(place),
        )  # fmt: skip
        made += [first, msgspec.structs.replace(first, choice=1)] if twice else [first]
        for read in (1, 2):
            prompts[read] += prompt if (stage or 0) >= read else 0
    for level, cost in enumerate(by_stage(made), start=1):
        read = [one for one in made if (one.stage or 0) >= level]
        assert cost.exchanges == len(read)
        assert cost.tokens == prompts[level] + sum(one.completion_tokens for one in read)
        assert cost.verdicts == (sum(one.verdicts for one in read) if level == 2 else 0)
        last = [one for one in read if one.stage == level]
        assert cost.in_all == spread([one.total_ms for one in last])
        assert cost.first_text.n == sum(one.first_token_ms is not None for one in last)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 600), (3, 600), (600, 600)])
def test_the_bound_is_that_of_the_binomial(k, n):
    bound = rate(k, n).bound
    if k == n:
        assert bound == 1
    else:
        assert stats.binom.cdf(k, n, bound) == pytest.approx(0.05)
    assert rate(0, 0) == (type(rate(0, 0)))(0, 0, None)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_quantiles_are_values_that_occurred(values):
    found = spread(values)
    ordered = sorted(values)
    assert found.median == ordered[math.ceil(0.5 * len(values)) - 1]
    assert found.high == ordered[math.ceil(0.99 * len(values) - 1e-9) - 1]


def test_slices_of_time_hold_each_line_once():
    end = datetime(2026, 1, 2, tzinfo=UTC)
    lines = [
        Line(
            exchange(place, score=9.0 if place % 3 == 0 else -9.0),
            text_of(end - timedelta(minutes=place)),
            "",
            0,
            None,
        )
        for place in range(1, 181)
    ]
    buckets = over_time(lines, end, timedelta(hours=1), 60)
    assert [bucket.n for bucket in buckets] == [1] * 60
    assert sum(bucket.flagged for bucket in buckets) == 20
    assert buckets[0].begin == end - timedelta(hours=1)
    assert time_of(text_of(end)) == end


def test_scores_of_other_guards_are_left_out():
    own = [exchange(1), exchange(2, measure=None), exchange(3, guard="cd" * 32)]
    others = [exchange(4, guard="cd" * 32, measure="other"), exchange(5, guard=None, measure=None)]
    found = recorded([*own, *others, exchange(6, decision="error")], RECORD, SHA)
    assert (len(found.scores), found.others) == (3, 3)


@settings(max_examples=50)
@given(st.lists(st.floats(-8, 8), max_size=40), st.floats(-9, 9))
def test_another_threshold_counts_as_the_server_would_decide(scores, threshold):
    made = [exchange(place, score=score) for place, score in enumerate(scores)]
    counts = at_threshold(recorded(made, RECORD, SHA), RECORD, threshold)
    now = [score > threshold - RECORD.decides.tolerance for score in scores]
    before = [score > FLAG for score in scores]
    assert counts.newly_halted == sum(a and not b for a, b in zip(now, before, strict=True))
    assert counts.newly_passed == sum(b and not a for a, b in zip(now, before, strict=True))
    assert counts.still_halted + counts.still_passed == sum(a == b for a, b in zip(now, before, strict=True))


def test_margins_of_all_kinds_of_records():
    assert margin_of(exchange(1, score=FLAG + 2), RECORD) == pytest.approx(2)
    assert math.isnan(margin_of(exchange(1, scores=Scores(None, 1.0, None)), RECORD))
    assert margin_of(exchange(1, scores=Scores(4.0, 1.0, 3.0)), None) == 1.0
    assert math.isnan(margin_of(exchange(1, scores=Scores(None, None, 3.0)), None))


def test_psi_is_that_of_its_formula():
    found = stability([0.0] * 60 + [2.0] * 30 + [4.0] * 10, {"0.5": 1.0, "0.9": 3.0, "1": 5.0})
    expected, seen = np.array([0.5, 0.4, 0.1]), np.array([0.6, 0.3, 0.1])
    assert found == pytest.approx(((seen - expected) * np.log(seen / expected)).sum())
    assert stability([0.0] * 10, {"0.999": 1.0, "1": 2.0}) is None
    assert stability([], {"0.5": 1.0, "0.9": 3.0}) is None


def test_psi_is_small_for_the_same_scores_and_large_for_others():
    draw = np.random.default_rng(1)
    quantiles = {name: float(stats.norm.ppf(float(name))) for name in ("0.5", "0.9", "0.99", "0.999")}
    assert stability(draw.normal(size=20_000).tolist(), quantiles) < 0.01
    assert stability(draw.normal(1, size=20_000).tolist(), quantiles) > 0.25


@given(st.lists(st.floats(-50, 50) | st.sampled_from([math.inf, -math.inf, math.nan]), max_size=60))
def test_a_histogram_holds_every_number_once(margins):
    found = histogram(margins)
    finite = [value for value in margins if math.isfinite(value)]
    if not finite:
        assert found is None
        return
    assert (sum(found.counts), found.unread, len(found.counts)) == (
        len(finite),
        len(margins) - len(finite),
        BINS,
    )
    assert found.low < 0 < found.high
    assert 0 <= found.place(-1e9) <= found.place(0) <= found.place(1e9) <= 1


@pytest.mark.parametrize(
    ("write", "value", "shown"),
    [
        (percent, None, "–"),
        (percent, 0.0, "0 %"),
        (percent, 1.0, "100 %"),
        (percent, 0.0005, "0.050 %"),
        (percent, 0.00038814, "0.039 %"),
        (percent, 0.0123, "1.2 %"),
        (percent, 0.958, "95.8 %"),
        (number, -1.5, "−1.50"),
        (number, math.nan, "–"),
        (number, -math.inf, "−∞"),
        (signed, 1.0, "+1.00"),
        (signed, -1.0, "−1.00"),
        (signed, math.inf, "∞"),
        (milliseconds, 0.84, "0.8 ms"),
        (milliseconds, 320.4, "320 ms"),
        (milliseconds, 4200.0, "4.2 s"),
        (milliseconds, 999.6, "1.0 s"),
        (milliseconds, 61_000.0, "61 s"),
        (moment, "2026-01-31T12:00:00.000Z", "2026-01-31 12:00:00"),
        (moment, 0.0, "1970-01-01 00:00:00"),
    ],
)
def test_numbers_are_written_for_people(write, value, shown):
    assert write(value) == shown
