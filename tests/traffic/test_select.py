"""What is selected for a label: near the cut, different from each other, and never seen before."""

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import make_exchange, make_guard

from lockgate.calibration import choose_threshold
from lockgate.curation import shingle_jaccard
from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Exchange, Message, PromptPrints, prompt_text, read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.traffic import SCORED, SelectionPlan, _files, manifest_of, select_exchanges
from lockgate.traffic._draw import BANDS, bands_of, draw_diverse, draw_key, order_by_distance

CUT = 0.1
ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.6, -0.5, 0.0, 0.5, 1.5]), st.sampled_from("abc"), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


def columns(rows):
    distances = np.array([d for d, _, _ in rows])
    keys = np.array([draw_key(0, f"row {i}") for i in range(len(rows))], dtype=np.uint64)
    return distances, keys, [source for _, source, _ in rows], [str(group) for _, _, group in rows]


def slow_draw(distances, keys, sources, groups, n: int) -> list[int]:
    """The rule as it is written: each choice looks at all rows."""
    bands = bands_of(distances, float(np.abs(distances).max()))
    drawn: list[int] = []
    turn = 0
    while len(drawn) < n:
        met = {groups[row] for row in drawn}
        free = [row for row in range(len(groups)) if groups[row] not in met]
        if not free:
            break
        counts = Counter(sources[row] for row in drawn)
        own = [row for row in free if bands[row] == BANDS[turn % 4]]
        if own:
            drawn.append(min(own, key=lambda row: (counts[sources[row]], abs(distances[row]), keys[row])))
        turn += 1
    return drawn


@given(ROWS, st.integers(1, 12))
def test_the_draw_is_that_of_a_slow_loop(rows, n) -> None:
    given_columns = columns(rows)
    drawn = draw_diverse(*given_columns, n)
    assert drawn == slow_draw(*given_columns, n)
    groups = given_columns[3]
    assert len({groups[row] for row in drawn}) == len(drawn) == min(n, len(set(groups)))


@given(ROWS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, n, draw) -> None:
    distances, keys, sources, groups = columns(rows)
    order = list(range(len(rows)))
    draw.shuffle(order)
    shuffled = (distances[order], keys[order], [sources[i] for i in order], [groups[i] for i in order])
    drawn = draw_diverse(distances, keys, sources, groups, n)
    assert [order[row] for row in draw_diverse(*shuffled, n)] == drawn


def test_bands_lie_on_both_sides_and_in_both_halves_of_the_reach() -> None:
    found = bands_of(np.array([0.2, 0.0, -0.2, 0.6, -1.0]), 1.0)
    assert found == ["above, near", "below, near", "below, near", "above, far", "below, far"]


def exchange(number: int) -> Exchange:
    """An exchange with a prompt like no other."""
    draw = random.Random(number)
    words = [
        "".join(draw.choices("abdegiklmnorstu", k=draw.randint(2, 7))) for _ in range(4 + 5 * number % 17)
    ]
    answer = make_exchange(number, 2 + number % 5).messages[1]
    return Exchange((Message("user", " ".join(words)), answer), None, None, "odd" if number % 3 else "even")


def rows_of_all_kinds() -> list[Exchange]:
    """Two sources, near-duplicate prompts, a prompt with several answers, and rows that may not be taken."""
    made = [exchange(i) for i in range(120)]
    base = "please tell me at some length about the lock beside the old mill and its keeper in number"
    for i in range(100, 110):
        made[i] = replace(made[i], messages=(Message("user", f"{base} {i}"), *made[i].messages[1:]))
    for i in range(110, 114):
        made[i] = replace(made[i], messages=(made[7].messages[0], *made[i].messages[1:]))
    made[3] = replace(made[3], label=0.0)
    made[4] = replace(made[4], messages=made[4].messages[:1])
    return made


@pytest.fixture
def pool(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.setattr(_files, "CHUNK", 7)
    rows = rows_of_all_kinds()
    write_exchanges(tmp_path / "first.jsonl", rows[:70])
    write_exchanges(tmp_path / "second.jsonl.gz", rows[70:])
    return [tmp_path / "first.jsonl", tmp_path / "second.jsonl.gz"]


@pytest.fixture
def guard(tmp_path) -> Guard:
    made = make_guard(flag=CUT, tolerance=0.0)
    return made.with_training_prompts(PromptPrints.of(rows_of_all_kinds()[10:14])).save(tmp_path / "guard")


def run(guard: Guard, pool: list[Path], output: Path, **settings) -> tuple[list[Exchange], dict]:
    found = select_exchanges(guard, pool, output, SelectionPlan(**settings))
    return list(read_exchanges(output)), found


def test_no_two_are_alike_and_none_was_seen(guard, pool, tmp_path) -> None:
    every = rows_of_all_kinds()
    write_exchanges(tmp_path / "calibration.jsonl", every[20:30])
    labelled = every[40:44]
    chosen, found = run(
        guard,
        pool,
        tmp_path / "chosen.jsonl",
        n=40,
        held_out=(tmp_path / "calibration.jsonl",),
        known=PromptPrints.of(labelled[:2]),
        known_ids=frozenset(row.id for row in labelled[2:]),
    )
    prompts = [prompt_text(row) for row in chosen]
    for place, prompt in enumerate(prompts):
        assert all(shingle_jaccard(prompt, other) < 0.7 for other in prompts[:place])
    known = {prompt_text(row) for row in (*every[10:14], *every[20:30], *labelled, every[3])}
    assert not known & set(prompts)
    assert len(chosen) == 40
    assert sum("old mill and its keeper" in prompt for prompt in prompts) <= 1
    assert found["fates"] == {
        "candidate": 100, "no_answer": 1, "labelled": 1, "trained": 4, "held_out": 10, "reviewed": 4,
    }  # fmt: skip
    assert all(row.label is None for row in chosen)


def test_all_lie_within_the_reach_and_say_their_score(guard, pool, tmp_path) -> None:
    chosen, found = run(guard, pool, tmp_path / "chosen.jsonl", n=10)
    reach, spread = found["shortlist"]["reach"], found["spread"]["value"]
    assert found["spread"]["of"] == "these exchanges"
    nearest: dict[str, float] = {}
    trained = {prompt_text(row) for row in rows_of_all_kinds()[10:14]}
    for i, row in enumerate(rows_of_all_kinds()):
        if i not in (3, 4) and prompt_text(row) not in trained:
            distance = abs(guard.score(row.messages).ranked - CUT) / spread
            nearest[prompt_text(row)] = min(distance, nearest.get(prompt_text(row), math.inf))
    assert found["prompts"] == len(nearest)
    # The shortlist grows until ten prompts in it are different.
    assert found["shortlist"]["prompts"] == 40
    assert reach == pytest.approx(sorted(nearest.values())[39], abs=1e-4)
    for row in chosen:
        scored = row.meta[SCORED]
        assert abs(scored["distance"]) <= reach
        assert scored["score"] == pytest.approx(guard.score(row.messages).ranked, abs=1e-4)
        assert scored["distance"] == pytest.approx((scored["score"] - CUT) / spread)
        assert scored["guard"] == guard.sha256
        assert abs(scored["distance"]) == pytest.approx(nearest[prompt_text(row)], abs=1e-3)
    assert sum(found["by_band"].values()) == sum(found["by_source"].values()) == 10


def test_distances_are_told_in_spreads_of_the_calibration(guard, pool, tmp_path) -> None:
    scores = np.linspace(-1, 0, 400)
    calibration = choose_threshold(scores, [str(i) for i in range(400)], 0.05, 0.0)
    calibrated = guard.with_calibration(calibration).save(tmp_path / "calibrated")
    _, found = run(calibrated, pool, tmp_path / "chosen.jsonl", n=5)
    assert found["spread"] == {"value": pytest.approx(0.49 / 2.326), "of": "calibration"}
    assert found["cut"] == calibration.cut


def test_the_same_is_chosen_again_and_the_seed_sets_the_order(guard, pool, tmp_path) -> None:
    run(guard, pool, tmp_path / "one.jsonl", n=12)
    run(guard, pool, tmp_path / "two.jsonl", n=12)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    first, second = (manifest_of(tmp_path / name).read_bytes() for name in ("one.jsonl", "two.jsonl"))
    assert first == second
    assert not any(row.messages[-1].content.encode() in first for row in rows_of_all_kinds())
    other, _ = run(guard, pool, tmp_path / "three.jsonl", n=12, seed=5)
    same = [row.id for row in read_exchanges(tmp_path / "one.jsonl")]
    assert [row.id for row in other] != same
    scores = [row.meta[SCORED]["score"] for row in other]
    assert scores not in (sorted(scores), sorted(scores, reverse=True))


def test_an_interrupted_selection_goes_on(guard, pool, tmp_path) -> None:
    run(guard, pool, tmp_path / "whole.jsonl", n=12)
    done: list[int] = []

    def stop(_path: Path, count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_exchanges(guard, pool, tmp_path / "chosen.jsonl", SelectionPlan(n=12), report=stop)
    state = tmp_path / "chosen.jsonl.state"
    texts = [message.content for row in rows_of_all_kinds() for message in row.messages]
    assert not any(text in path.read_text() for path in state.rglob("*.jsonl") for text in texts)
    again: list[int] = []
    plan = SelectionPlan(n=12)
    select_exchanges(guard, pool, tmp_path / "chosen.jsonl", plan, report=lambda _, n: again.append(n))
    assert len(again) == 10 + 8 - 3
    assert (tmp_path / "chosen.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not state.exists()


def test_few_different_prompts_give_few_exchanges(guard, tmp_path) -> None:
    base = "please tell me at some length about the lock beside the old mill and its keeper in number"
    rows = [
        replace(make_exchange(i), messages=(Message("user", f"{base} {i}"), *make_exchange(i).messages[1:]))
        for i in range(30)
    ]
    write_exchanges(tmp_path / "alike.jsonl", [*rows, exchange(50), exchange(61)])
    chosen, found = run(guard, [tmp_path / "alike.jsonl"], tmp_path / "chosen.jsonl", n=5)
    assert len(chosen) == found["shortlist"]["distinct"] == 3
    assert found["shortlist"]["prompts"] == 32


def test_what_cannot_be_chosen_from_is_an_error_before_the_scoring(guard, pool, tmp_path) -> None:
    out = tmp_path / "chosen.jsonl"
    with pytest.raises(ConfigError, match="n is 0"):
        SelectionPlan(n=0)
    write_exchanges(tmp_path / "labelled.jsonl", [make_exchange(i, 4, label=0.0) for i in range(3)])
    with pytest.raises(ConfigError, match=r"pool: no exchange to choose from \(3 labelled\)"):
        run(guard, [tmp_path / "labelled.jsonl"], out)
    with pytest.raises(ConfigError, match=r"output: .* is an input"):
        run(guard, pool, pool[0])
    with pytest.raises(ConfigError, match="output: the folder"):
        run(guard, pool, tmp_path / "none" / "chosen.jsonl")
    with pytest.raises(GuardError, match="no threshold"):
        run(make_guard(flag=math.inf).save(tmp_path / "blind"), pool, out)
    with pytest.raises(GuardError, match="save the guard"):
        run(make_guard(), pool, out)
    assert not out.exists()
    assert not list(tmp_path.glob("*.state"))


def test_equal_distances_follow_the_keys() -> None:
    order = order_by_distance(np.array([0.5, -0.5, 0.1]), np.array([7, 3, 9], dtype=np.uint64))
    assert order.tolist() == [2, 1, 0]
