"""The numbers in the documents follow from the committed tables."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from lockgate.guards import EMBEDDED, read_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(monkeypatch) -> Callable[..., None]:
    """Have a step compare its figures, in this process: starting one costs more than most comparisons."""

    def check(step: str, *options: str) -> None:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [step, *options, "--check"])
        # A figure that differs ends the step with a message.
        import_module(step).main()

    return check


def test_embedded_guard_figures_and_page_follow_from_the_scores_tables(check) -> None:
    check("recipes.embedded_guard.report")


def test_what_the_guard_catches_follows_from_the_tables(check) -> None:
    check("recipes.embedded_guard.recall")


def test_what_a_language_model_gains_follows_from_the_traces(check) -> None:
    check("recipes.embedded_guard.language_figures")


def test_what_a_memory_of_conversations_catches_follows_from_the_tables(check) -> None:
    check("recipes.embedded_guard.conversation_memory")


def test_the_ablation_follows_from_its_scores_tables(check) -> None:
    # --out is not read: the tables hold all that the figures need.
    check("recipes.embedded_guard.ablate", "--out", "unused")


def test_the_figures_of_smoothed_verdicts_follow_from_the_traces(check) -> None:
    check("recipes.reproduce_ccpp.smoothing")


@pytest.mark.skipif(not (ROOT / "results" / "four_systems.json").exists(), reason="not measured yet")
def test_the_four_systems_figures_and_page_follow_from_the_tables(check) -> None:
    check("recipes.reproduce_ccpp.report")


@pytest.mark.skipif(
    not (ROOT / "results" / "synthesis" / "value.json").exists(), reason="value.json: not measured yet"
)
def test_the_value_of_synthetic_data_follows_from_its_scores_table(check) -> None:
    check("recipes.embedded_guard.synthetic")


@pytest.mark.skipif(
    not (ROOT / "results" / "synthesis.json").exists(), reason="synthesis.json: not measured yet"
)
def test_the_summary_of_synthesis_follows_from_the_committed_results(check) -> None:
    check("recipes.policy_portability.synthesis_report")


def test_shipped_guard_has_the_threshold_of_the_results() -> None:
    record = read_bundle(EMBEDDED).record
    kept = json.loads((ROOT / "results" / "embedded_guard.json").read_text())
    assert record.calibration is not None
    assert record.calibration["n"] == kept["n_calibration"]
    # As shipped: the documents say that it has two stages.
    assert record.cascade is not None
    assert round(record.cascade.flag, 5) == kept["two_stage"]["threshold"]
    assert record.text.sha256 == kept["two_stage"]["text"]["sha256"]
    assert record.cascade.drift == kept["two_stage"]["drift"]
    assert record.thresholds.flag_on == kept["flag_on"]


def test_shipped_guard_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 25_000_000
