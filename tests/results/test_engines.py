"""The committed figures of precisions and of attention, and what the code takes from them."""

import json
from pathlib import Path

import pytest
from parts import make_exchange, make_guard

from benchmarks.engines import TARGET, write_part
from benchmarks.precision import choose, measure
from lockgate.backbones import Backbone
from lockgate.errors import PrecisionWarning
from lockgate.guards import EMBEDDED, read_bundle
from lockgate.guards._checks import fingerprint_tolerance


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads(TARGET.read_text(encoding="utf-8"))


def test_bfloat16_was_measured_on_enough_exchanges(figures) -> None:
    found = figures["dtype"]["bfloat16"]
    assert found["n"] == sum(part["n"] for part in found["sets"].values()) >= 300
    assert found["max_abs"] == max(part["max_abs"] for part in found["sets"].values())
    text = (TARGET.parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert f"by at most {found['max_abs']:.3f} and changes {found['flag_changes']} of {found['n']}" in text
    assert found["flag_changes"] == sum(part["flag_changes"] for part in found["sets"].values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_tolerance_of_the_fixed_tokens_covers_the_embedded_model(figures, dtype) -> None:
    record = read_bundle(EMBEDDED).record.backbone
    moved = figures["dtype"][dtype]["fixed_tokens_max_abs"]
    assert 2 * moved < fingerprint_tolerance(record, dtype) < 10 * moved


def test_one_call_of_attention_is_faster_where_it_is_used(figures) -> None:
    rows = figures["attention"]["rows"]
    assert {(row["streams"], row["context"]) for row in rows} >= {(8, 64), (8, 512), (8, 2048), (32, 64)}
    assert all(row["ratio"] < 1 for row in rows if row["streams"] >= 8 and row["context"] <= 512)
    assert all(row["ratio"] > 1 for row in rows if row["streams"] == 2 and row["context"] == 64)


def test_a_part_is_written_beside_the_others(tmp_path) -> None:
    path = tmp_path / "f" / "engines.json"
    write_part("dtype", {"a": 1}, path)
    write_part("attention", [2], path)
    write_part("dtype", {"a": 3}, path)
    assert json.loads(path.read_text()) == {"attention": [2], "dtype": {"a": 3}}


def test_the_figures_are_of_the_same_exchanges_in_both_precisions(saved_backbone, tmp_path) -> None:
    path: Path = saved_backbone("llama")
    make_guard(Backbone.load(path, device="cpu")).save(tmp_path / "g")
    rows = [make_exchange(number) for number in range(12)]
    sets = [rows[:8], choose(rows, 5)]
    assert [row.id for row in sets[1]] == [rows[number].id for number in (0, 2, 5, 8, 11)]
    with pytest.warns(PrecisionWarning):
        found = measure(sets, guard=str(tmp_path / "g"), backbone=str(path))
    half = found["bfloat16"]
    assert [part["n"] for part in half["sets"]] == [8, 5]
    assert half["n"] == 13
    assert 0 < half["mean_abs"] < half["max_abs"] == max(part["max_abs"] for part in half["sets"])
    assert 0 < found["float16"]["fixed_tokens_max_abs"] < half["fixed_tokens_max_abs"]
