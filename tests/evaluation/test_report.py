import json
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from pages import check
from scores import make_scores

import lockgate
from lockgate.durable import file_sha256
from lockgate.errors import ExchangeError
from lockgate.evaluation import Baseline, collect_provenance, compare, evaluate, render_report, write_report


@pytest.fixture(scope="module")
def result():
    table = make_scores(300, seed=4, repeat=2)
    calibration = make_scores(2000, seed=5, harmful=0.0, prefix="c")
    text = table.with_column("baseline_text", np.random.default_rng(0).normal(size=300))
    nasty = Baseline("<b>$1 & $2", table, calibration)
    return evaluate(
        text,
        name="<guard> & co",
        calibration=calibration,
        baselines=[nasty],
        resamples=100,
        provenance={"k": "<v>"},
    )


def test_page_is_whole_escaped_and_self_contained(result):
    page = render_report(result)
    checker = check(page)
    assert checker.svg == 5
    assert "<guard>" not in page
    assert "&lt;guard&gt; &amp; co" in page
    assert "<b>$1" not in page
    assert "&lt;v&gt;" in page
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert result.highest_benign[0].id in page


def test_drawings_are_xml(result):
    page = render_report(result)
    drawings = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
    for drawing in drawings:
        root = ET.fromstring(drawing)  # noqa: S314
        assert root.get("role") == "img"
        assert root.get("aria-label")


@pytest.mark.slow
def test_the_same_result_gives_the_same_page(result):
    assert render_report(result) == render_report(result)


@pytest.mark.slow
def test_written_json_is_the_result(result, tmp_path):
    paths = write_report(result, tmp_path / "new" / "folder")
    assert json.loads(paths["json"].read_text()) == json.loads(json.dumps(result.to_dict()))
    assert paths["html"].read_text() == render_report(result)
    assert sorted(p.name for p in paths["html"].parent.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_label_makes_a_page_too(share):
    check(render_report(evaluate(make_scores(40, harmful=share), resamples=100)))


def test_a_comparison_is_shown():
    from dataclasses import replace

    table = make_scores(100)
    found = compare(table, make_scores(100, gap=1.0), names=("left one", "right one"), resamples=100)
    page = render_report(replace(evaluate(table, resamples=100), comparison=found))
    check(page)
    assert "left one minus right one" in page


def test_provenance_says_where_a_result_comes_from(tmp_path):
    (tmp_path / "data").write_bytes(b"abc")
    found = collect_provenance(["lockgate", "evaluate"], {"bootstrap": 3}, [tmp_path / "data"])
    assert found["inputs"] == {
        str(tmp_path / "data"): "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert found["seeds"] == {"bootstrap": 3}
    assert found["versions"]["numpy"] == np.__version__
    root = lockgate.__path__[0] + "/.."
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    expected = head.stdout.strip() if head.returncode == 0 else None
    assert (found["commit"] or "").removesuffix("+uncommitted") == (expected or "")
    with pytest.raises(ExchangeError, match="cannot be read"):
        file_sha256(tmp_path / "none")
