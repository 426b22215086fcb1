"""The four systems' result file and tables follow from the scores tables, and a changed table is noticed."""

import json
from pathlib import Path

import pytest
from studies import make_study

from lockgate.tables import ScoresTable
from recipes.reproduce_ccpp.report import main
from recipes.reproduce_ccpp.study import StudySpec

RECIPE = Path(__file__).parents[3] / "recipes" / "reproduce_ccpp"


@pytest.fixture
def run(tmp_path):
    files = {name: tmp_path / name for name in ("four.json", "results.md")}
    files["results.md"].write_text("# x\n<!-- systems:start -->\nold\n<!-- systems:end -->\nend\n")
    options = ["--summary", files["four.json"], "--page", files["results.md"]]
    spec = make_study(tmp_path)

    def run(*arguments):
        """What the step ends with: None, or a message."""
        words = ["--spec", spec, "--disguise", spec, *options, *arguments]
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            return ended.code
        return None

    return run


def test_figures_are_written_and_checked(run, tmp_path):
    assert run() is None
    found = json.loads((tmp_path / "four.json").read_text())
    assert list(found["systems"]) == ["last_generation", "exchange", "cascade", "production"]
    wanted = {"relative_compute_engine", "relative_compute_front", "tpr", "tpr_ci", "flagged", "flagged_ci"}
    for system in found["systems"].values():
        assert wanted | {"escalated"} <= system.keys()
    assert found["systems"]["exchange"]["escalated"] is None
    assert {"operating_point", "n_benign", "spearman", "delay"} <= found.keys()
    assert found["shared"] is None
    keys = found["disguise"]["systems"]["production"]["sets"]["disguise_keys"]
    assert keys == found["systems"]["production"]["sets"]["disguise_keys"]
    claimed = found["claim"]
    ratio = [found["systems"][name]["relative_compute_engine"] for name in ("exchange", "production")]
    assert claimed["exchange_compute_over_production"] == pytest.approx(ratio[0] / ratio[1], rel=1e-4)
    assert claimed["aim_reached"] is False

    page = (tmp_path / "results.md").read_text()
    assert page.startswith("# x\n<!-- systems:start -->\n| system |")
    assert page.endswith("<!-- systems:end -->\nend\n")
    assert "| last generation | 100 % | 100 % |" in page
    assert "| keys |" in page
    assert "<svg" in (tmp_path / "report.html").read_text()

    assert run("--check") is None
    (tmp_path / "results.md").write_text(page.replace("| 100 % |", "| 99 % |", 1))
    assert "results.md differs" in run("--check")
    path = tmp_path / "probe_exchange" / "benign_test.parquet"
    table = ScoresTable.read(path)
    table.with_column("flops_stage1", 2 * table.floats("flops_stage1")).write(path)
    assert "four.json differs from the tables: " in run("--check")


def test_the_recipes_own_specs_are_read():
    spec = StudySpec.read(RECIPE / "systems.yaml")
    disguise = StudySpec.read(RECIPE / "disguise.yaml")
    assert disguise.root.resolve() == spec.root.resolve()
    assert not spec.disguised
    assert spec.operating_point == 0.001
    assert [len(parts) for parts in spec.harmful_sets] == [1, 1, 4]
    assert spec.root.resolve() == RECIPE.parents[1] / "results" / "four_systems"
