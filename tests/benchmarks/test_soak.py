"""What the soak counts, on results made for it, and the guard that it runs with."""

from collections import Counter

import pytest

from benchmarks.memory import growth_mb_per_hour
from benchmarks.soak import SCENARIOS, Seen, compare, end_of
from benchmarks.tiny import MARK, save_marking_guard
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Guard


def lines(**counts: int) -> list[dict[str, str]]:
    return [{"decision": name} for name, count in counts.items() for _ in range(count)]


def test_growth_is_the_slope_after_the_warm_up() -> None:
    samples = [(0.0, 10.0), *((float(second), 100 + second / 60) for second in range(10, 60))]
    assert growth_mb_per_hour(samples, 10) == pytest.approx(60)
    assert growth_mb_per_hour(samples, 58) is None


def test_a_missing_line_and_another_decision_are_seen() -> None:
    seen = Seen({"pass": Counter(stop=3), "cancel": Counter(left=2)})
    same = compare(seen, lines(**{"pass": 3, "cancelled": 2}))
    assert (same["lost"], same["other"]) == (0, 0)
    assert compare(seen, lines(**{"pass": 2, "cancelled": 2}))["lost"] == 1
    assert compare(seen, lines(**{"pass": 3, "halt": 1, "cancelled": 1}))["other"] == 1
    assert set(seen.ends) <= set(SCENARIOS)


def test_how_an_answer_ended() -> None:
    assert end_of({"choices": [{"finish_reason": None}]}) is None
    assert end_of({"choices": [{"finish_reason": "stop"}]}) == "stop"
    assert end_of({"error": {"code": "upstream_broke_off"}}) == "error upstream_broke_off"


def test_the_guard_flags_the_mark_and_nothing_else(tmp_path) -> None:
    folder, model = save_marking_guard(tmp_path)
    guard = Guard.load(folder, backbone=model)
    rows = [Exchange((Message("user", "why"), Message("assistant", text))) for text in ("so", f"s{MARK}o")]
    assert [score.flagged for score in guard.score_many(rows)] == [False, True]
