"""Mining takes exactly the hardest harmless exchanges of a pool, in every way of running it."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classifying import tiny_classifier
from hypothesis import given
from hypothesis import strategies as st
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cascade import Cascade
from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, ExchangeError, GuardError
from lockgate.exchanges import Exchange, Message, PromptPrints, prompt_text, read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.traffic import MINED, MiningPlan, _files, manifest_of, mine, read_mined
from lockgate.traffic._mine import take_highest

ROWS = st.lists(
    st.tuples(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5, 2.0]), st.sampled_from("abc")), min_size=1
)
PROMPT_ALONE = Exchange((Message("user", "a prompt alone"),), 0.0, None, "even")


def pool_rows() -> list[Exchange]:
    """Harmless and harmful rows of two sources, a row without a label, one without an answer, a copy."""
    made = [
        replace(make_exchange(i, 1 + 7 * i % 23), label=float(i % 4 == 3), source="odd" if i % 3 else "even")
        for i in range(40)
    ]
    made[5] = replace(made[5], label=None)
    made[9] = PROMPT_ALONE
    made[20] = replace(made[2], source="even")
    return made


def harmless() -> list[Exchange]:
    """The rows of the pool that may be mined, in order."""
    rows = pool_rows()
    return [
        row for i, row in enumerate(rows) if row.label is not None and row.label < 0.5 and i not in (9, 20)
    ]


@pytest.fixture
def guard(tmp_path) -> Guard:
    return make_guard(flag=0.3).save(tmp_path / "guard")


@pytest.fixture
def pool(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.setattr(_files, "CHUNK", 7)
    rows = pool_rows()
    write_exchanges(tmp_path / "first.jsonl", rows[:25])
    write_exchanges(tmp_path / "second.jsonl.gz", rows[25:])
    return [tmp_path / "first.jsonl", tmp_path / "second.jsonl.gz"]


def screened(guard: Guard, row: Exchange) -> float:
    """The score of stage 1: the largest logit of last user turn and answer."""
    found = guard.score(row.messages)
    return float(np.nanmax([found.max_prompt, found.max_answer]))


@given(ROWS, st.integers(1, 12), st.none() | st.integers(1, 4))
def test_the_highest_are_taken_as_a_slow_loop_takes_them(rows, wanted, per_source) -> None:
    scores, sources = np.array([score for score, _ in rows]), [source for _, source in rows]
    expected: list[int] = []
    for row in sorted(range(len(rows)), key=lambda row: (-scores[row], row)):
        room = per_source is None or sum(sources[i] == sources[row] for i in expected) < per_source
        if scores[row] > -math.inf and room and len(expected) < wanted:
            expected.append(row)
    assert take_highest(scores, sources, wanted, per_source).tolist() == sorted(expected)


@pytest.mark.parametrize(
    ("settings", "wanted"), [({"top": 0.2}, 6), ({"count": 4}, 4), ({"count": 500}, 27), ({"top": 0.001}, 1)]
)
def test_what_is_mined_is_the_top_of_all_scores(guard, pool, tmp_path, settings, wanted) -> None:
    rows = harmless()
    assert len(rows) == 27
    scores = [screened(guard, row) for row in rows]
    hardest = set(np.argsort([-score for score in scores], kind="stable")[:wanted].tolist())
    found = mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(**settings))
    mined = list(read_exchanges(tmp_path / "hard.jsonl"))
    assert [row.id for row in mined] == [row.id for i, row in enumerate(rows) if i in hardest]
    assert found["file"] == {"rows": wanted, "sha256": file_sha256(tmp_path / "hard.jsonl")}
    for row in mined:
        origin = row.meta[MINED]
        assert (origin["guard"], origin["probe"]) == (guard.sha256, guard.record.probe_sha256)
        assert (origin["stage"], origin["round"]) == (1, 1)
        assert origin["score"] == pytest.approx(screened(guard, row), abs=1e-3)
        assert origin["score"] >= found["cut"]
    assert found["cut"] == min(row.meta[MINED]["score"] for row in mined)
    assert not (tmp_path / "hard.jsonl.state").exists()


def test_the_manifest_says_what_the_pool_held_and_no_text(guard, pool, tmp_path) -> None:
    found = mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(count=9, per_source=3, round=2))
    written = manifest_of(tmp_path / "hard.jsonl").read_text()
    assert json.loads(written) == found
    assert found["kinds"] == {
        "candidate": 27, "harmful": 10, "unlabelled": 1, "no_answer": 1, "duplicate": 1, "overlap": 0,
    }  # fmt: skip
    assert found["by_source"] == {"even": 3, "odd": 3}
    assert found["pool_by_source"] == dict(Counter(row.source for row in harmless()))
    assert [part["sha256"] for part in found["pool"]] == [file_sha256(path) for path in pool]
    assert (found["round"], found["wanted"], found["held_out_prompts"]) == (2, 9, None)
    assert found["flagged"] == sum(screened(guard, row) > 0.3 - 1e-3 for row in harmless())
    harmful = [row for row in pool_rows() if row.label == 1.0]
    assert found["harmful_flagged"] == sum(screened(guard, row) > 0.3 - 1e-3 for row in harmful)
    assert not any(message.content in written for row in pool_rows() for message in row.messages)


@pytest.mark.parametrize("after", [1, 5])
def test_an_interrupted_mining_goes_on_to_the_same_files(guard, pool, tmp_path, after) -> None:
    mine(guard, pool, tmp_path / "whole.jsonl", MiningPlan(top=0.3))
    done: list[int] = []

    def stop(_path: Path, count: int) -> None:
        done.append(count)
        if len(done) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(top=0.3), report=stop)
    state = tmp_path / "hard.jsonl.state"
    kept = {path: path.stat().st_mtime_ns for path in state.rglob("*.jsonl")}
    assert len(kept) == 1
    texts = [message.content for row in pool_rows() for message in row.messages]
    assert not any(text in path.read_text() for path in kept for text in texts)
    again: list[int] = []
    mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(top=0.3), report=lambda _, n: again.append(n))
    assert len(again) == 7 - after
    assert (tmp_path / "hard.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (
        manifest_of(tmp_path / "hard.jsonl").read_bytes()
        == manifest_of(tmp_path / "whole.jsonl").read_bytes()
    )


def test_two_processes_mine_the_same(tmp_path, pool, saved_backbone, monkeypatch) -> None:
    monkeypatch.undo()
    guard = make_guard(Backbone.load(saved_backbone("llama"))).save(tmp_path / "guard")
    for name, workers in (("one", 1), ("two", 2)):
        mine(guard, pool[:1], tmp_path / f"{name}.jsonl", MiningPlan(top=0.4, workers=workers))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def two_stages(folder: Path, escalate: float) -> Guard:
    cascade = Cascade(escalate=escalate, flag=0.0, weight=0.5)
    return make_guard().with_cascade(tiny_classifier(), cascade).save(folder)


def test_the_cascade_mines_what_it_asks_stage_2_about(tmp_path, pool) -> None:
    rows = harmless()
    probe = make_guard().save(tmp_path / "probe")
    escalate = float(np.median([screened(probe, row) for row in rows]))
    guard = two_stages(tmp_path / "guard", escalate)
    scores = [guard.score(row.messages) for row in rows]
    asked = [i for i, score in enumerate(scores) if score.stage == 2]
    assert 3 < len(asked) < len(rows)
    found = mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(stage=2, count=500))
    assert [row.id for row in read_exchanges(tmp_path / "hard.jsonl")] == [rows[i].id for i in asked]
    assert (found["scored"], found["flagged"]) == (len(asked), sum(score.flagged for score in scores))
    best = max(asked, key=lambda i: scores[i].mixed_max)
    mine(guard, pool, tmp_path / "one.jsonl", MiningPlan(stage=2, count=1))
    (row,) = read_exchanges(tmp_path / "one.jsonl")
    assert row.id == rows[best].id
    assert row.meta[MINED]["score"] == pytest.approx(scores[best].mixed_max, abs=1e-3)
    # Its stage 1 alone flags what it hands over.
    found = mine(guard, pool, tmp_path / "screen.jsonl", MiningPlan(stage=1, count=1))
    assert found["flagged"] == len(asked)
    assert found["flag"] == escalate


def test_a_cascade_that_asks_about_nothing_has_nothing_to_mine(tmp_path, pool) -> None:
    guard = two_stages(tmp_path / "guard", 1e6)
    with pytest.raises(GuardError, match="asked about no harmless exchange"):
        mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(stage=2))
    assert not (tmp_path / "hard.jsonl").exists()


def test_harmful_rows_are_kept_aside_or_in_a_file_of_their_own(guard, pool, tmp_path) -> None:
    mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(top=1), keep_harmful=tmp_path / "harmful.jsonl")
    assert list(read_exchanges(tmp_path / "harmful.jsonl")) == [r for r in pool_rows() if r.label == 1.0]
    assert all(row.label == 0.0 for row in read_exchanges(tmp_path / "hard.jsonl"))
    write_exchanges(pool[0], [make_exchange(1, label=0.0)])
    with pytest.raises(ConfigError, match="keep_harmful: the pool has no harmful"):
        mine(guard, pool[:1], tmp_path / "hard.jsonl", keep_harmful=tmp_path / "harmful.jsonl")


def test_traffic_without_labels_counts_as_harmless_if_asked(guard, tmp_path) -> None:
    rows = [make_exchange(i, 3 + i) for i in range(10)]
    write_exchanges(tmp_path / "traffic.jsonl", rows)
    plan = MiningPlan(count=3, unlabelled_as=0)
    found = mine(guard, [tmp_path / "traffic.jsonl"], tmp_path / "hard.jsonl", plan)
    assert (found["unlabelled_as"], found["kinds"]["candidate"]) == (0, 10)
    assert [row.label for row in read_exchanges(tmp_path / "hard.jsonl")] == [0.0] * 3


def test_held_out_prompts_are_refused_or_dropped(guard, pool, tmp_path) -> None:
    rows = harmless()
    long = max(range(1, len(rows)), key=lambda i: len(prompt_text(rows[i])))
    near = Exchange((Message("user", f"{prompt_text(rows[long])} please"),))
    write_exchanges(tmp_path / "test.jsonl", [rows[0], make_exchange(900)])
    PromptPrints.of([near, rows[20]]).save(tmp_path / "calibration.safetensors")
    held = (tmp_path / "test.jsonl", tmp_path / "calibration.safetensors")
    known = PromptPrints.of([rows[0], make_exchange(900), near, rows[20]])
    answered = [row for row in pool_rows() if row.label is not None and not row.is_prompt_only]
    met = [row.id for row in answered if known.find([prompt_text(row)])[0] is not None]
    assert {rows[i].id for i in (0, long, 20)} <= set(met)
    assert len(met) < 20
    with pytest.raises(ConfigError) as caught:
        mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(held_out=held))
    assert str(caught.value).startswith(f"held_out: {len(met)} exchanges of the pool")
    assert f"{pool[0]}: exchange 1;" in str(caught.value)
    assert not (tmp_path / "hard.jsonl.state").exists()
    found = mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(top=1, held_out=held, drop_overlap=True))
    assert (found["kinds"]["overlap"], found["held_out_prompts"]) == (len(met), 4)
    left = [row.id for row in rows if row.id not in met]
    assert [row.id for row in read_exchanges(tmp_path / "hard.jsonl")] == left


def test_prompts_that_trained_may_be_mined_and_are_counted(tmp_path, pool) -> None:
    rows = harmless()
    guard = make_guard().with_training_prompts(PromptPrints.of(rows[:5])).save(tmp_path / "guard")
    assert mine(guard, pool, tmp_path / "hard.jsonl", MiningPlan(top=1))["of_training_prompts"] == 5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([make_exchange(i, label=1.0) for i in range(3)], "3 harmful"),
        ([make_exchange(i) for i in range(3)], "3 without a label.*--unlabelled-as 0"),
        ([PROMPT_ALONE], "1 without an answer"),
        ([], "among 0"),
    ],
)
def test_a_pool_without_harmless_rows_is_refused_before_it_is_read(guard, tmp_path, rows, words) -> None:
    write_exchanges(tmp_path / "pool.jsonl", rows)
    with pytest.raises(ConfigError, match=f"^pool: no harmless exchange.*{words}"):
        mine(guard, [tmp_path / "pool.jsonl"], tmp_path / "hard.jsonl")
    assert not (tmp_path / "hard.jsonl.state").exists()


def test_what_cannot_work_is_refused_before_the_pool_is_read(guard, pool, tmp_path) -> None:
    cases = [
        (guard, {"stage": 2}, "hard.jsonl", GuardError, "one stage"),
        (make_guard(), {}, "hard.jsonl", GuardError, "save the guard"),
        (guard, {}, "hard.txt", ExchangeError, "unknown kind of file"),
        (guard, {}, "no/hard.jsonl", ConfigError, "output: the folder"),
        (guard, {}, "first.jsonl", ConfigError, "output: .* is an input"),
        (guard, {"held_out": (tmp_path / "none.jsonl",)}, "hard.jsonl", ExchangeError, "no such file"),
        (guard, {"held_out": (tmp_path / "empty.jsonl",)}, "hard.jsonl", ExchangeError, "no prompt"),
    ]
    write_exchanges(tmp_path / "empty.jsonl", [])
    for given_guard, settings, name, error, words in cases:
        with pytest.raises(error, match=words):
            mine(given_guard, pool, tmp_path / name, MiningPlan(**settings))
        assert not (tmp_path / f"{name}.state").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stage": 3}, "stage is 3"),
        ({"top": 0}, "top is 0"),
        ({"top": 1.5}, "top is 1.5"),
        ({"count": 0}, "count is 0"),
        ({"per_source": 0}, "per_source is 0"),
        ({"unlabelled_as": 1}, "expected 0"),
        ({"round": 0}, "round is 0"),
        ({"drop_overlap": True}, "held_out"),
    ],
)
def test_plans_out_of_range_are_refused(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        MiningPlan(**settings)


def test_scores_that_are_no_numbers_mine_nothing(pool, tmp_path) -> None:
    guard = make_guard()
    guard.head.weights.fill_(3e38)
    with pytest.raises(GuardError, match="27 of 27 harmless exchanges have no finite score"):
        mine(guard.save(tmp_path / "guard"), pool, tmp_path / "hard.jsonl")
    assert not (tmp_path / "hard.jsonl").exists()


def test_mined_rows_come_back_with_their_origin(guard, pool, tmp_path) -> None:
    found = mine(guard, pool, tmp_path / "a.jsonl", MiningPlan(count=5))
    mine(guard, pool, tmp_path / "b.jsonl.gz", MiningPlan(count=2))
    back = read_mined([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"], probe=guard.record.probe_sha256)
    assert len(back.rows) == 7
    assert back.probe == guard.record.probe_sha256
    assert [fact["file"]["rows"] for fact in back.facts] == [5, 2]
    assert back.facts[0]["cut"] == found["cut"]
    assert read_mined([]) == ([], None, [])


def test_a_later_calibration_of_the_guard_keeps_its_mined_rows(pool, tmp_path) -> None:
    """Round 2 is mined by the cascade around the same probe, whose bundle has another hash."""
    first = make_guard().save(tmp_path / "guard")
    second = two_stages(tmp_path / "two", -1e6)
    mine(first, pool, tmp_path / "a.jsonl", MiningPlan(count=2))
    mine(second, pool, tmp_path / "b.jsonl", MiningPlan(stage=2, count=3, round=2))
    back = read_mined([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], probe=second.record.probe_sha256)
    assert [fact["round"] for fact in back.facts] == [1, 2]
    assert {fact["guard"]["sha256"] for fact in back.facts} == {first.sha256, second.sha256}


def test_mined_files_that_do_not_belong_together_are_refused(guard, pool, tmp_path) -> None:
    other = make_guard(seed=1).save(tmp_path / "other")
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    mine(guard, pool, ours, MiningPlan(count=3))
    mine(other, pool, theirs, MiningPlan(count=3))
    with pytest.raises(ExchangeError, match=r"theirs\.jsonl: mined by another guard"):
        read_mined([ours, theirs])
    with pytest.raises(ExchangeError, match=r"ours\.jsonl: mined by another guard"):
        read_mined([ours], probe=other.record.probe_sha256)
    rows = list(read_exchanges(ours))
    bare = tmp_path / "bare.jsonl"
    write_exchanges(bare, rows)
    with pytest.raises(ExchangeError, match=r"bare\.jsonl\.manifest\.json: not a readable manifest"):
        read_mined([bare])
    write_exchanges(ours, rows[:2])
    with pytest.raises(ExchangeError, match="not the file that its manifest describes"):
        read_mined([ours])

    def claim(path: Path, made: list[Exchange]) -> None:
        """Write rows with a manifest that fits them, as somebody does who edits both."""
        write_exchanges(path, made)
        manifest = json.loads(manifest_of(theirs).read_text())
        manifest["guard"]["probe_sha256"] = guard.record.probe_sha256
        manifest["file"] = {"sha256": file_sha256(path), "rows": len(made)}
        manifest_of(path).write_text(json.dumps(manifest))

    claim(bare, [*rows, *read_exchanges(theirs)])
    with pytest.raises(ExchangeError, match="exchange 4 does not come from the guard"):
        read_mined([bare])
    claim(bare, [rows[0], replace(rows[1], label=1.0)])
    with pytest.raises(ExchangeError, match="exchange 2 is not labelled harmless"):
        read_mined([bare])
