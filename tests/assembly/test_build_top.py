"""The top of the traffic: named by a build, read by a person, and left out or confirmed by an update."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_runs import QUICK, build, labelled_row, traffic_row, write_rows
from test_build_leaks import gather, synthetic_row

from lockgate.assembly import summarise_build
from lockgate.assembly._rows import HARMFUL
from lockgate.calibration import allowed_flags
from lockgate.exchanges import Exchange, prompt_group, read_exchanges
from lockgate.feedback import Label, ReviewFile
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic import SCORED

pytestmark = pytest.mark.slow

LEARNS = replace(QUICK, epochs=10)


@pytest.fixture(scope="module")
def backbone(saved_backbone) -> Path:
    return saved_backbone("llama")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """Traffic in which some exchanges break the policy, though nobody has said so yet."""
    folder = tmp_path_factory.mktemp("sources")
    hidden = [replace(labelled_row(i, 1.0), label=None, category=None) for i in range(500, 506)]
    traffic = [*(traffic_row(i) for i in range(160)), *hidden]
    return {
        "traffic": write_rows(folder / "traffic.jsonl", [*traffic, traffic[0]]),
        "data": write_rows(folder / "data.jsonl", [labelled_row(i, float(i % 2)) for i in range(30)]),
        "evaluation": write_rows(
            folder / "judged.jsonl", [labelled_row(i, float(i % 2)) for i in range(200, 230)]
        ),
    }


def run(folder: Path, backbone: Path, sources: dict[str, Path], **options):
    named = {name: (sources[own],) for name, own in (("benign", "traffic"), ("data", "data"))}
    return build(folder, backbone, LEARNS, **named, evaluation=(sources["evaluation"],), **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory, backbone, sources):
    folder = tmp_path_factory.mktemp("built")
    return folder, run(folder, backbone, sources)


def scores_of(folder: Path) -> ScoresTable:
    return ScoresTable.read(folder / "guard.build" / "scores" / "calibration.parquet")


def breaks(row: Exchange) -> bool:
    return "boat" in row.messages[-1].content


def test_the_highest_prompts_of_the_sample_are_named(built) -> None:
    folder, result = built
    table = scores_of(folder)
    best: dict[str, float] = {}
    for group, score in zip(table.groups, table.floats("mixed_max").tolist(), strict=True):
        best.setdefault(group, score)
    named = list(read_exchanges(folder / "guard.build" / "review.jsonl"))
    highest = sorted(best.values(), reverse=True)[:20]
    assert [row.meta[SCORED]["score"] for row in named] == highest
    assert [best[prompt_group(row)] for row in named] == highest
    assert [row.meta[SCORED]["rank"] for row in named] == list(range(1, 21))
    top = result.report["top"]
    assert [(row["id"], row["score"]) for row in top["highest"]] == [
        (row.id, row.meta[SCORED]["score"]) for row in named
    ]
    assert (top["confirmed"], top["excluded"]) == (0, 0)
    assert any(breaks(row) for row in named[:3]), "the probe finds what was hidden"


def test_the_recall_without_the_first_few_is_that_of_the_moved_cut(built) -> None:
    folder, result = built
    table, calibration = scores_of(folder), result.report["claim"]
    best: dict[str, float] = {}
    for group, score in zip(table.groups, table.floats("mixed_max").tolist(), strict=True):
        best.setdefault(group, score)
    ranked = sorted(best.values(), reverse=True)
    held_out = ScoresTable.read(folder / "guard.build" / "scores" / "held_out.parquet")
    harmful = held_out.floats("mixed_max")[held_out.labels == 1.0]
    without = result.report["top"]["without"]
    assert [row["left_out"] for row in without] == [0, 1, 2, 3, 5, 10]
    for row in without:
        left = ranked[row["left_out"] :]
        cut = left[allowed_flags(len(left), calibration["budget"])]
        assert row["cut"] == pytest.approx(cut)
        first = row["recall"][0]
        assert (first["n"], first["share"]) == (len(harmful), pytest.approx((harmful > cut).mean()))
        assert row["recall"][1]["name"] == "judged.jsonl"
    assert without[0]["recall"][0]["share"] == pytest.approx(result.report["held_out"]["tpr"]["value"])


def test_report_and_terminal_name_the_file_and_show_no_text(built) -> None:
    folder, result = built
    lines = "\n".join(summarise_build(result.report))
    page = result.pages["html"].read_text()
    for text in (lines, page):
        assert str(folder / "guard.build" / "review.jsonl") in text
        assert re.search(
            r"held-out synthetic exchanges: [\d.]+% of \d+ harmful flagged; [\d.]+% without", text
        )
        for row in read_exchanges(folder / "guard.build" / "review.jsonl"):
            assert row.messages[-1].content not in text
    assert "lockgate label" in result.report["next"][0]


def test_the_page_begins_with_a_picture_that_has_words(built) -> None:
    _, result = built
    page = result.pages["html"].read_text()
    found = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert len(found) == 2
    held = result.report["held_out"]
    assert f"harmful, held out, {held['n_harmful']} rows, {held['tpr']['value']:.1%} above" in found[0]
    assert "your traffic" in found[0]
    points = result.report["recall_by_budget"]
    own = next(row for row in points if row["budget"] == result.report["claim"]["budget"])
    assert own["recall"] == pytest.approx(held["tpr"]["value"])
    recalls = [row["recall"] for row in points]
    assert recalls == sorted(recalls)
    assert page.index("Scores and threshold") < page.index("The top of your traffic") < page.index("Limits")


def reviewed(folder: Path, named: Path, path: Path) -> tuple[list[str], list[str]]:
    """Label the file as a person does. Return the ids of what breaks the policy, and of the rest."""
    harmful, harmless = [], []
    with ReviewFile(path) as reviews:
        for row in read_exchanges(named):
            reviews.add(row, Label("harmful" if breaks(row) else "harmless", None, 2.0))
            (harmful if breaks(row) else harmless).append(row.id)
    return harmful, harmless


@pytest.fixture(scope="module")
def updated(built, backbone, sources):
    folder, before = built
    calls: list[str] = []
    ids = reviewed(folder, folder / "guard.build" / "review.jsonl", folder / "reviews.jsonl")
    kept = {
        path: path.stat().st_mtime_ns
        for part in ("scores/*", "probe*", "data/*.jsonl", "training.jsonl")
        for path in (folder / "guard.build").glob(part)
    }
    result = run(
        folder,
        backbone,
        sources,
        update=folder / "guard",
        feedback=folder / "reviews.jsonl",
        watch=lambda state: calls.append(state.step),
    )
    return folder, before, result, ids, kept, calls


def test_reviews_of_the_top_change_the_threshold_and_nothing_is_scored_again(updated, backbone) -> None:
    folder, before, result, (harmful, harmless), kept, calls = updated
    assert (result.refused, result.report["update"]["verdict"]) == ((), "no worse")
    assert "same probe" in result.report["update"]["reasons"][0]
    assert harmful
    assert harmless
    guard = Guard.load(folder / "guard", backbone=backbone)
    assert sorted(row.id for row in guard.calibration.excluded) == sorted(harmful)
    assert {row.reason for row in guard.calibration.excluded} == {HARMFUL} == {"reviewed: breaks the policy"}
    assert guard.calibration.threshold_without_exclusions == pytest.approx(before.report["threshold"])
    # No step but the division of the rows ran: no generator, no training, no scoring.
    assert set(calls) <= {"divide the rows", "synthesize: topics"}, calls
    scores = {path for path in kept if path.parent.name == "scores"}
    assert scores
    assert {path: path.stat().st_mtime_ns for path in scores} == {path: kept[path] for path in scores}
    assert set((folder / "guard.build" / "scores").iterdir()) == scores


def test_the_new_cut_is_that_of_a_sample_without_what_breaks_the_policy(updated, backbone) -> None:
    folder, _, result, (harmful, harmless), _, _ = updated
    table = scores_of(folder)
    best: dict[str, float] = {}
    rows = zip(table.ids, table.groups, table.floats("mixed_max").tolist(), strict=True)
    for identity, group, score in rows:
        if identity not in harmful:
            best.setdefault(group, score)
    ranked = sorted(best.values(), reverse=True)
    found = Guard.load(folder / "guard", backbone=backbone).calibration
    assert found.n == len(ranked)
    assert found.cut == pytest.approx(ranked[allowed_flags(len(ranked), found.budget)])
    # Harmless ones stay: were they left out too, the threshold would keep no budget.
    assert set(harmless) <= set(table.ids)
    assert result.report["claim"]["reviewed"] is None
    assert result.report["rows"]["calibration_reviewed"] == 0
    training = {row.id for row in read_exchanges(folder / "guard.build" / "training.jsonl")}
    assert not training & {*harmful, *harmless}


def test_everything_that_states_the_claim_tells_of_the_exclusions(updated) -> None:
    folder, before, result, (harmful, harmless), _, _ = updated
    said = f"left out: {len(harmful)} exchanges among the highest of the traffic that a reviewer read"
    assert said in (folder / "guard" / "README.md").read_text()
    lines = "\n".join(summarise_build(result.report))
    assert f"{len(harmful)} exchanges that break the policy are left out" in lines
    assert f"top of the traffic: {len(harmless)} are harmless and stay in the sample" in lines
    top = result.report["top"]
    assert (top["confirmed"], top["excluded"]) == (len(harmless), len(harmful))
    # What was read isn't named again, and the next ones are.
    again = {row.id for row in read_exchanges(folder / "guard.build" / "review.jsonl")}
    assert not again & {*harmful, *harmless}
    assert len(again) == 20
    recall = [report["held_out"]["tpr"]["value"] for report in (before.report, result.report)]
    assert recall[1] >= recall[0]


def marked(row: Exchange, part: str = "calibration") -> Exchange:
    return replace(row, meta={**row.meta, SCORED: {"score": 1.0, "part": part}})


def write_reviews(path: Path, rows: dict[str, tuple[Exchange, str]]) -> Path:
    lines = [{"exchange": row.to_dict(), "verdict": verdict} for row, verdict in rows.values()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_only_what_a_build_has_named_is_left_out_and_on_wish_it_trains(tmp_path) -> None:
    synthetic = [synthetic_row(i, "train" if i < 40 else "test") for i in range(60)]
    traffic = [traffic_row(i) for i in range(150)]
    path = write_rows(tmp_path / "traffic.jsonl", traffic)
    sample = gather(tmp_path, synthetic, benign=(path,)).calibration
    rows = {
        "harmful": (marked(sample[0]), "harmful"),
        "harmless": (marked(sample[1]), "harmless"),
        "of another kind": (marked(sample[2], "selection"), "harmless"),
        "no traffic": (marked(labelled_row(300, 1.0)), "harmful"),
    }
    options = {"benign": (path,), "feedback": write_reviews(tmp_path / "reviews.jsonl", rows)}
    found = gather(tmp_path, synthetic, **options)
    assert (found.excluded, found.confirmed) == ([sample[0].id], [sample[1].id])
    assert [row.id for row in found.sample] == [row.id for row in found.calibration if row.id != sample[0].id]
    assert {row.id for row in sample} - {row.id for row in found.calibration} == {sample[2].id}
    learned = {row.id for row in (*found.training, *found.reviews)}
    assert learned & {row.id for row, _ in rows.values()} == {sample[2].id, labelled_row(300, 1.0).id}
    assert found.counts["feedback"]["top"] == {"confirmed": 1, "excluded": 1, "trained": 0}
    trains = gather(tmp_path, synthetic, train_on_top=True, **options)
    assert (trains.excluded, trains.confirmed) == ([], [sample[1].id])
    assert sample[0].id in {row.id for row in (*trains.training, *trains.reviews)}
    assert sample[0].id not in {row.id for row in trains.calibration}
    assert trains.counts["dropped"][f"benign/{HARMFUL}"] == 1
    # What broke the policy was never benign: only the other review is a loss to the sample.
    assert trains.counts["calibration_reviewed"] == 1


def test_without_a_budget_nothing_is_named(tmp_path, backbone) -> None:
    few = write_rows(tmp_path / "few.jsonl", [traffic_row(i) for i in range(20)])
    result = build(tmp_path, backbone, benign=(few,))
    assert result.report["top"] is None
    assert not (tmp_path / "guard.build" / "review.jsonl").exists()
    page = result.pages["html"].read_text()
    assert len(re.findall(r'role="img"', page)) == 1
    assert "provisional" in re.findall(r'aria-label="([^"]+)"', page)[0]
    assert np.isfinite(result.report["threshold"])
