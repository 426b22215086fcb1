"""The numbers in the documents follow from the committed tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lockgate.guards import EMBEDDED, read_bundle

ROOT = Path(__file__).parents[2]


def test_embedded_guard_figures_and_page_follow_from_the_scores_tables() -> None:
    command = [sys.executable, "-m", "recipes.embedded_guard.report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_ablation_follows_from_its_scores_tables() -> None:
    # --out is not read: the tables hold all that the figures need.
    command = [sys.executable, "-m", "recipes.embedded_guard.ablate", "--out", "unused", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_figures_of_smoothed_verdicts_follow_from_the_traces() -> None:
    command = [sys.executable, "-m", "recipes.reproduce_ccpp.smoothing", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / "results" / "four_systems.json").exists(), reason="not measured yet")
def test_the_four_systems_figures_and_page_follow_from_the_tables() -> None:
    command = [sys.executable, "-m", "recipes.reproduce_ccpp.report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(
    not (ROOT / "results" / "synthesis" / "value.json").exists(), reason="value.json: not measured yet"
)
def test_the_value_of_synthetic_data_follows_from_its_scores_table() -> None:
    command = [sys.executable, "-m", "recipes.embedded_guard.synthetic", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(
    not (ROOT / "results" / "synthesis.json").exists(), reason="synthesis.json: not measured yet"
)
def test_the_summary_of_synthesis_follows_from_the_committed_results() -> None:
    command = [sys.executable, "-m", "recipes.policy_portability.synthesis_report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_shipped_guard_has_the_threshold_of_the_results() -> None:
    record = read_bundle(EMBEDDED).record
    kept = json.loads((ROOT / "results" / "embedded_guard.json").read_text())
    assert record.calibration is not None
    assert record.calibration["n"] == kept["n_calibration"]
    # As shipped: the documents say that it has two stages.
    assert record.cascade is not None
    assert round(record.cascade.flag, 5) == kept["two_stage"]["threshold"]
    assert record.classifier.sha256 == kept["two_stage"]["classifier"]["sha256"]
    assert record.thresholds.flag_on == kept["flag_on"]


def test_shipped_guard_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 25_000_000
