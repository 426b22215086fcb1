"""Scoring a file gives the same table in every way, and errors name file and line."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from classifying import tiny_classifier
from models import tiny_backbone
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cascade import Cascade
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, Message, write_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import _files, score_file

# What the same work costs differs from run to run.
COSTS = ("cpu_s_stage1",)


@pytest.fixture
def rows():
    made = [
        replace(make_exchange(i, 1 + i % 30), label=float(i % 2), category="c" if i % 3 else None)
        for i in range(40)
    ]
    made[3] = Exchange((Message("user", "a prompt alone"),), None, None, "prompts")
    made[7] = Exchange((Message("user", "x"), Message("assistant", "")), 0.0, None, "")
    made[11] = make_exchange(11, 500)
    made[12] = Exchange((Message("user", "x"), Message("assistant", "y")), 0.5, None, "short")
    return made


@pytest.fixture
def source(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(_files, "CHUNK", 7)
    write_exchanges(tmp_path / "rows.jsonl.gz", rows)
    return tmp_path / "rows.jsonl.gz"


def same(first: ScoresTable, second: ScoresTable) -> bool:
    return first.table.drop_columns(list(COSTS)).equals(second.table.drop_columns(list(COSTS)))


def test_every_row_says_what_score_says(source, tmp_path, rows) -> None:
    guard = make_guard(flag=0.4)
    table = score_file(guard, source, tmp_path / "out.parquet")
    assert same(table, ScoresTable.read(tmp_path / "out.parquet"))
    assert not (tmp_path / "out.parquet.parts").exists()
    found = table.table.to_pylist()
    assert [row["row"] for row in found] == list(range(40))
    for row, line in zip(rows, found, strict=True):
        alone = guard.score(row.messages)
        assert line["id"] == row.id
        assert (line["label"], line["category"], line["source"]) == (row.label, row.category, row.source)
        assert line["probe_max"] == line["mixed_max"] == pytest.approx(alone.max_score, abs=1e-3)
        for name in ("max_prompt", "max_answer"):
            value = getattr(alone, name)
            assert line[name] == (None if math.isnan(value) else pytest.approx(value, abs=1e-3))
        if abs(alone.max_score - 0.4) > 0.01:
            assert (line["flagged"], line["flag_token"]) == (alone.flagged, alone.flag_token)
        assert (line["tokens_stage1"], line["stage"]) == (alone.tokens, 1)
        assert line["flops_stage1"] > 0
    assert found[3]["max_answer"] is found[7]["max_answer"] is None
    assert found[11]["tokens_stage1"] > 2 * tiny_backbone().context_length


def test_stage_1_alone_scores_as_a_guard_of_one_stage(source, tmp_path) -> None:
    cascade = Cascade(escalate=0.4, flag=0.0, weight=0.5)
    two = make_guard(flag=-7.0).with_cascade(tiny_classifier(), cascade)
    found = score_file(two, source, tmp_path / "screen.parquet", screen=True)
    alone = score_file(make_guard(flag=0.4, tolerance=0.0), source, tmp_path / "alone.parquet")
    assert same(found, alone)
    for settings in ({"all_blocks": True}, {"blocks": tmp_path / "trace.parquet"}):
        with pytest.raises(ConfigError, match="screen: stage 1 alone has no blocks"):
            score_file(two, source, tmp_path / "no.parquet", screen=True, **settings)


def test_prompts_alone_are_ranked_and_not_flagged_by_the_answer(source, tmp_path) -> None:
    table = score_file(make_guard(flag=-1e9, flag_on="answer"), source, tmp_path / "out.parquet")
    found = table.table.to_pylist()
    assert not found[3]["flagged"]
    assert not found[7]["flagged"]
    assert found[3]["probe_max"] == found[3]["max_prompt"]
    assert all(line["flagged"] for i, line in enumerate(found) if i not in (3, 7))


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_table(source, tmp_path, after) -> None:
    guard = make_guard()
    whole = score_file(guard, source, tmp_path / "whole.parquet")
    reports = itertools.count(1)

    def stop(done: int) -> None:
        if next(reports) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(guard, source, tmp_path / "out.parquet", report=stop)
    parts = tmp_path / "out.parquet.parts"
    first = parts / "00000000.jsonl"
    assert len(list(parts.glob("*.jsonl"))) == after
    (parts / f"{after:08d}.part").write_text("{half a chunk")
    stamp = first.stat().st_mtime_ns
    seen: list[int] = []
    again = score_file(
        guard, source, tmp_path / "out.parquet", report=lambda done: seen.append(first.stat().st_mtime_ns)
    )
    assert same(whole, again)
    assert set(seen) == {stamp}
    assert not parts.exists()


@pytest.mark.parametrize("change", ["guard", "bias", "input", "header"])
def test_chunks_of_another_run_are_not_taken_over(source, tmp_path, rows, change) -> None:
    guard, out = make_guard(), tmp_path / "out.parquet"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(guard, source, out, report=stop)
    if change == "guard":
        guard = make_guard(flag=-5.0)
    elif change == "bias":
        guard.head.bias.add_(1.0)
    elif change == "input":
        write_exchanges(source, rows[::-1])
    else:
        (tmp_path / "out.parquet.parts" / ".lockgate").write_text("scoring\n{")
    expected = score_file(guard, source, tmp_path / "fresh.parquet")
    assert same(expected, score_file(guard, source, out))


@pytest.mark.slow
def test_two_processes_make_the_same_table(tmp_path, rows, saved_backbone) -> None:
    write_exchanges(tmp_path / "rows.jsonl", [*rows, *(make_exchange(i, 5) for i in range(50, 100))])
    backbone = Backbone.load(saved_backbone("llama"))
    guard = make_guard(backbone).save(tmp_path / "guard")
    done: list[int] = []
    one = score_file(guard, tmp_path / "rows.jsonl", tmp_path / "one.parquet")
    two = score_file(guard, tmp_path / "rows.jsonl", tmp_path / "two.parquet", workers=2, report=done.append)
    assert same(one, two)
    assert done[-1] >= 90


def test_one_chunk_starts_no_other_process(tmp_path, rows, saved_backbone, monkeypatch) -> None:
    write_exchanges(tmp_path / "rows.jsonl", rows)
    guard = make_guard(Backbone.load(saved_backbone("llama"))).save(tmp_path / "guard")
    monkeypatch.setattr(_files, "run_parts", None)
    found = score_file(guard, tmp_path / "rows.jsonl", tmp_path / "few.parquet", workers=2)
    assert same(found, score_file(guard, tmp_path / "rows.jsonl", tmp_path / "one.parquet"))


def test_a_malformed_line_names_file_and_line(source, tmp_path, rows) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [json.dumps(row.to_dict()) for row in rows[:12]]
    lines[9] = '{"messages": [{"role": "user", "content": "private'
    path.write_text("\n".join(lines))
    with pytest.raises(ExchangeError, match=r"bad\.jsonl:10") as caught:
        score_file(make_guard(), path, tmp_path / "out.parquet")
    assert "private" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()
    table = score_file(make_guard(), path, tmp_path / "out.parquet", skip_invalid=True)
    assert table.ids == [row.id for i, row in enumerate(rows[:12]) if i != 9]


def test_an_exchange_that_cannot_be_rendered_names_its_place(source, tmp_path, rows) -> None:
    path = tmp_path / "bad.jsonl"
    made = [make_exchange(i) for i in range(20)]
    made[17] = Exchange((Message("assistant", "private"),))
    write_exchanges(path, made)
    with pytest.raises(ExchangeError, match="exchange 17 ") as caught:
        score_file(make_guard(tiny_backbone("gemma2")), path, tmp_path / "out.parquet")
    assert "private" not in str(caught.value)


def test_an_empty_file_is_an_empty_table(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    assert len(score_file(make_guard(), tmp_path / "rows.jsonl", tmp_path / "out.parquet")) == 0
    assert len(ScoresTable.read(tmp_path / "out.parquet")) == 0


def test_wrong_arguments(source, tmp_path) -> None:
    guard = make_guard()
    with pytest.raises(ConfigError, match="workers: expected at least 1"):
        score_file(guard, source, tmp_path / "out.parquet", workers=0)
    with pytest.raises(ConfigError, match="does not exist"):
        score_file(guard, source, tmp_path / "no" / "out.parquet")
    with pytest.raises(ExchangeError, match=r"nowhere\.jsonl"):
        score_file(guard, tmp_path / "nowhere.jsonl", tmp_path / "out.parquet")
    with pytest.raises(ConfigError, match="in memory"):
        score_file(guard, source, tmp_path / "out.parquet", workers=2)
    saved = guard.save(tmp_path / "guard")
    with pytest.raises(ConfigError, match="in memory"):
        score_file(saved, source, tmp_path / "out.parquet", workers=2)
    assert isinstance(saved, Guard)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_a_broken_probe_flags_everything_and_says_so(source, tmp_path) -> None:
    guard = make_guard(flag=1e9)
    guard.head.bias.fill_(float("nan"))
    table = score_file(guard, source, tmp_path / "out.parquet")
    assert table.flagged.all()
    assert table.floats("probe_max").min() == math.inf
