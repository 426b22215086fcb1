"""Signals of campaigns: what raises one, for whom, and that nothing grows."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyholders import Moment

from lockgate.errors import ConfigError
from lockgate.tenants import CampaignOptions, Campaigns
from lockgate.tenants._campaigns import LEAST_EXCHANGES, MOST_KEYS
from lockgate.tenants._sketches import Sketcher, Sketches

PROMPT = list(range(100, 160))


def signals(found):
    return [sign.signal for sign in found]


def test_many_flags_of_a_key_raise_one_signal_in_a_window():
    moment = Moment()
    watch = Campaigns(CampaignOptions(window_minutes=10, flags_per_hundred=20), moment)
    for _ in range(LEAST_EXCHANGES - 1):
        assert watch.note("a", 1.0, PROMPT) == []
    [sign] = watch.note("a", 1.0, PROMPT)
    assert (sign.signal, sign.value, sign.bound, sign.exchanges) == ("flags", 100.0, 20, LEAST_EXCHANGES)
    assert watch.note("a", 1.0, PROMPT) == []
    moment.now += 600
    for _ in range(LEAST_EXCHANGES - 1):
        assert watch.note("a", 1.0, PROMPT) == []  # what is older than the window no longer counts
    assert signals(watch.note("a", 1.0, PROMPT)) == ["flags"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(-5, 5), st.floats(0, 120)), max_size=120))
def test_the_shares_are_those_of_a_plain_count(steps):
    """A signal comes when the exchanges of the key within the window say so, and no other key's count."""
    moment = Moment(0.0)
    options = CampaignOptions(window_minutes=10, flags_per_hundred=50, close_per_hundred=50, close_margin=2)
    watch = Campaigns(options, moment)
    seen, told = {"a": [], "b": []}, {}
    for key, margin, wait in steps:
        moment.now += wait
        seen[key].append((int(moment.now / 50), margin))
        window = [one for part, one in seen[key] if part > int(moment.now / 50) - 12]
        expected = []
        for signal, counted in (("flags", lambda one: one > 0), ("close", lambda one: -2 < one <= 0)):
            enough = len(window) >= LEAST_EXCHANGES and 2 * sum(map(counted, window)) >= len(window)
            if enough and moment.now - told.get((key, signal), -math.inf) >= 600:
                told[key, signal] = moment.now
                expected.append(signal)
        assert signals(watch.note(key, margin, [])) == expected


def test_a_failed_reading_counts_like_a_flag_and_one_without_a_score_does_not():
    watch = Campaigns(CampaignOptions(flags_per_hundred=100), Moment())
    other = Campaigns(CampaignOptions(flags_per_hundred=1, close_per_hundred=1), Moment())
    for _ in range(LEAST_EXCHANGES - 1):
        watch.note("a", math.nan, PROMPT)
        other.note("a", -math.inf, PROMPT)
    assert signals(watch.note("a", math.inf, PROMPT)) == ["flags"]
    assert other.note("a", -math.inf, PROMPT) == []


def test_variants_of_one_prompt_from_several_keys_raise_a_signal():
    watch = Campaigns(CampaignOptions(duplicates=2), Moment())
    found = []
    for number, key in enumerate("abc"):
        variant = [*PROMPT[:40], 9000 + number, *PROMPT[41:]]
        found.append(signals(watch.note(key, 0.5, variant)))
    assert found == [[], [], []]  # each has probed once
    assert signals(watch.note("c", -0.5, PROMPT)) == ["duplicates"]


def test_harmless_exchanges_and_a_single_key_raise_none():
    watch = Campaigns(CampaignOptions(duplicates=1), Moment())
    for _ in range(10):
        assert watch.note("a", 1.0, PROMPT) == []  # one key
    for key in "bcd":
        assert watch.note(key, -5.0, PROMPT) == []  # far below the threshold
    assert signals(watch.note("b", 1.0, list(range(9000, 9060)))) == []
    assert signals(watch.note("b", 1.0, PROMPT)) == ["duplicates"]


def test_old_prompts_are_forgotten():
    moment = Moment()
    watch = Campaigns(CampaignOptions(window_minutes=10, duplicates=1), moment)
    watch.note("a", 1.0, PROMPT)
    moment.now += 601
    assert watch.note("b", 1.0, PROMPT) == []


def test_likeness_follows_what_prompts_share():
    sketcher, draw = Sketcher(), random.Random(5)
    prompt = [draw.randrange(30_000) for _ in range(300)]
    known = Sketches()
    known.add(0.0, "a", sketcher.sketch(prompt))
    near, far = list(prompt), list(prompt)
    for place in draw.sample(range(300), 3):
        near[place] = 40_000
    for place in draw.sample(range(300), 100):
        far[place] = 40_000
    assert known.others_like("b", sketcher.sketch(near)) == {"a"}
    assert known.others_like("b", sketcher.sketch(far)) == set()
    assert known.others_like("a", sketcher.sketch(near)) == set()
    for short in ([], [1], [1, 2]):
        assert known.others_like("b", sketcher.sketch(short)) == set()


def test_memory_is_bounded():
    watch = Campaigns(CampaignOptions(flags_per_hundred=50), Moment())
    for number in range(MOST_KEYS + 10):
        watch.note(str(number), -5.0, [])
    assert len(watch) == MOST_KEYS
    sketcher, known = Sketcher(), Sketches(most=5)
    for number in range(20):
        known.add(float(number), "a", sketcher.sketch([number, 2, 3, 4]))
    assert len(known) == 5
    assert len(known._bands) <= 5 * 8
    known.forget(100.0)
    assert (len(known), known._bands) == (0, {})


def test_options_without_any_signal_are_refused():
    with pytest.raises(ConfigError, match="give flags_per_hundred"):
        CampaignOptions(lock_out_minutes=3)
