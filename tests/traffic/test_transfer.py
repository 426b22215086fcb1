"""`calibrate --transfer`: the figures are those of the two scorings, and a guard moves only on evidence."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.calibration import clopper_pearson, required_n
from lockgate.cli import main
from lockgate.errors import CalibrationError, ConfigError, PrecisionWarning
from lockgate.exchanges import write_exchanges
from lockgate.guards import Guard, read_bundle
from lockgate.tables import ScoresTable
from lockgate.traffic import CalibrationPlan, calibrate, compare_precisions, score_file

BUDGET = 0.05
N = required_n(BUDGET) + 4


@pytest.fixture(scope="module")
def traffic(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("traffic") / "t.jsonl"
    write_exchanges(path, [make_exchange(n) for n in range(N)])
    return path


@pytest.fixture(scope="module")
def bundle(saved_backbone, tmp_path_factory, traffic) -> Path:
    """A guard that is calibrated in float32."""
    place = tmp_path_factory.mktemp("guard") / "g"
    guard = make_guard(Backbone.load(saved_backbone("llama"), device="cpu"))
    calibrate(guard, traffic, CalibrationPlan(budget=BUDGET)).save(place)
    return place


@pytest.fixture(scope="module")
def tables(bundle, traffic, saved_backbone, tmp_path_factory) -> dict[str, ScoresTable]:
    folder = tmp_path_factory.mktemp("scores")
    found = {}
    for dtype in ("float32", "bfloat16"):
        guard = load(bundle, saved_backbone, dtype)
        found[dtype] = score_file(guard, traffic, folder / f"{dtype}.parquet")
    return found


def load(bundle, saved_backbone, dtype) -> Guard:
    options = {"backbone": saved_backbone("llama"), "device": "cpu", "dtype": dtype}
    if dtype == "float32":
        return Guard.load(bundle, **options)
    with pytest.warns(PrecisionWarning):
        return Guard.load(bundle, **options)


@pytest.fixture
def run(capsys, saved_backbone):
    def run(*arguments):
        options = ("--backbone", saved_backbone("llama"), "--device", "cpu")
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in ("calibrate", *arguments, *options)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def with_flag(table: ScoresTable, *, scores) -> ScoresTable:
    return table.with_column("mixed_max", scores)


def test_the_figures_are_those_of_both_tables(bundle, saved_backbone, tables) -> None:
    guard = load(bundle, saved_backbone, "bfloat16")
    found = compare_precisions(guard, tables["float32"], tables["bfloat16"])
    moved = np.abs(tables["bfloat16"].floats("mixed_max") - tables["float32"].floats("mixed_max"))
    assert 0 < moved.mean() < moved.max()
    assert found.decided.max_abs == moved.max()
    assert found.decided.mean_abs == pytest.approx(moved.mean())
    assert found.flag_changes == int((tables["bfloat16"].flagged != tables["float32"].flagged).sum())
    assert found.flagged_after == int(tables["bfloat16"].flagged.sum())
    assert found.shares[0] == clopper_pearson(int(tables["float32"].flagged.sum()), N)
    assert (found.before, found.after) == ("float32 on cpu", "bfloat16 on cpu")
    assert json.loads(json.dumps(found.to_dict()))["n"] == N


def test_changes_of_decisions_are_counted_each_way(bundle, saved_backbone, tables) -> None:
    guard = load(bundle, saved_backbone, "bfloat16")
    flag = guard.record.thresholds.flag
    old = np.full(N, flag - 1.0)
    new = old.copy()
    old[:3], new[1:6], new[6] = flag + 1.0, flag + 2.0, -math.inf
    found = compare_precisions(
        guard, with_flag(tables["float32"], scores=old), with_flag(tables["bfloat16"], scores=new)
    )
    assert (found.new_flags, found.lost_flags, found.flag_changes) == (3, 1, 4)
    assert (found.flagged_before, found.flagged_after, found.judged_once) == (3, 5, 1)
    assert (found.decided.n, found.decided.max_abs) == (N - 1, 3.0)
    with pytest.raises(CalibrationError, match=f"4 of {N} decisions change in bfloat16 on cpu"):
        found.keep()


def test_rows_are_found_by_their_ids(bundle, saved_backbone, tables) -> None:
    guard = load(bundle, saved_backbone, "bfloat16")
    turned = tables["float32"].select(np.arange(N)[::-1])
    expected = compare_precisions(guard, tables["float32"], tables["bfloat16"])
    assert compare_precisions(guard, turned, tables["bfloat16"]).to_dict() == expected.to_dict()
    with pytest.raises(ConfigError, match=f"2 of {N} exchanges are not in the tables"):
        compare_precisions(guard, turned.select(np.arange(N - 2)), tables["bfloat16"])
    with pytest.raises(ConfigError, match="computes as its threshold was set"):
        compare_precisions(load(bundle, saved_backbone, "float32"), turned, turned)


def test_the_command_measures_both_and_writes_nothing(run, bundle, traffic, tmp_path, tables) -> None:
    code, out, err = run(bundle, "--transfer", "--input", traffic, "--dtype", "bfloat16", "--json")
    assert code == 0, err
    assert "warning: guard tiny: its threshold was set in float32 on cpu" in err
    moved = np.abs(tables["bfloat16"].floats("mixed_max") - tables["float32"].floats("mixed_max"))
    document = json.loads(out)
    assert document["transfer"]["decided"] == {
        "n": N,
        "max_abs": pytest.approx(moved.max()),
        "mean_abs": pytest.approx(moved.mean()),
    }
    assert document["output"] is None


def test_a_recalibrated_guard_is_the_one_that_calibrate_makes(
    run, bundle, traffic, saved_backbone, tmp_path, tables
) -> None:
    tables["float32"].write(tmp_path / "old.parquet")
    options = ("--input", traffic, "--dtype", "bfloat16", "--budget", str(BUDGET), "--output")
    given = ("--scores", tmp_path / "old.parquet")
    code, out, _ = run(bundle, "--transfer", "--recalibrate", *given, *options, tmp_path / "moved")
    assert code == 0
    assert "decisions change" in out
    assert "with a new threshold" in out
    code, _, err = run(bundle, *options, tmp_path / "plain")
    assert code == 0
    assert "warning" in err
    moved, plain = (read_bundle(tmp_path / name).record for name in ("moved", "plain"))
    assert moved.thresholds == plain.thresholds
    assert moved.backbone == plain.backbone
    assert moved.backbone.dtype == "bfloat16"
    guard = Guard.load(tmp_path / "moved", backbone=saved_backbone("llama"), device="cpu")
    assert guard.precision_shift is None
    assert not (tmp_path / "moved.state").exists()


def test_a_threshold_is_kept_if_no_decision_changes(bundle, saved_backbone, tables, tmp_path) -> None:
    guard = load(bundle, saved_backbone, "bfloat16")
    scores = guard.record.thresholds.flag - 1.0 - np.arange(N)
    kept = compare_precisions(
        guard, with_flag(tables["float32"], scores=scores), with_flag(tables["bfloat16"], scores=scores - 0.5)
    ).keep()
    saved = kept.save(tmp_path / "kept")
    assert saved.precision_shift is None
    assert saved.calibration == guard.calibration
    assert "no decision changed, and scores moved by at most 0.5000" in (saved.path / "README.md").read_text()
    few = [table.select(np.arange(20)) for table in tables.values()]
    with pytest.raises(CalibrationError, match="distinct"):
        compare_precisions(guard, *(with_flag(table, scores=scores[:20]) for table in few)).keep()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--transfer",), "--transfer: give the exchanges to score"),
        (("--recalibrate",), "--recalibrate goes with --transfer"),
        (
            ("--transfer", "--recalibrate", "--input", "t.jsonl"),
            "--recalibrate: a guard is written only",
        ),
        (("--transfer", "--input", "t.jsonl", "--tolerance", "0.1"), "--tolerance"),
        (("--transfer", "--input", "t.jsonl", "--dtype", "int8"), "dtype int8: expected auto, float32"),
    ],
)
def test_options_that_do_not_fit_are_errors(run, bundle, more, expected) -> None:
    code, _, err = run(bundle, *more)
    assert code == 2
    assert expected in err


def test_several_processes_score_in_the_precision_of_the_guard(
    bundle, saved_backbone, traffic, tmp_path
) -> None:
    guard = load(bundle, saved_backbone, "bfloat16")
    two = score_file(guard, traffic, tmp_path / "two.parquet", workers=2)
    one = score_file(guard, traffic, tmp_path / "one.parquet")
    np.testing.assert_allclose(two.floats("mixed_max"), one.floats("mixed_max"), atol=1e-4)
