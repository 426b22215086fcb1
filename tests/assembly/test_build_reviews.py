"""Reviews in a build are looked up in their files, counted, reported, and turned into a proposal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from build_runs import POLICY, QUICK, build, labelled_row, traffic_row, write_rows
from test_build_leaks import gather, synthetic_row

from lockgate.assembly import summarise_build
from lockgate.assembly._folder import BuildFolder
from lockgate.assembly._reviews import place_proposal
from lockgate.constitution import load_constitution
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message

CATEGORY = POLICY.category_ids[0]


def synthetic_rows() -> list[Exchange]:
    return [synthetic_row(i, "train" if i < 40 else "test") for i in range(60)]


def write_lines(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "reviews.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def whole(row: Exchange, verdict: str, **fields: Any) -> dict[str, Any]:
    return {"exchange": replace(row, label=None, category=None).to_dict(), "verdict": verdict, **fields}


def test_reviews_of_evaluation_items_are_dropped_and_counted(tmp_path) -> None:
    judged = [labelled_row(i, 1.0) for i in range(300, 303)]
    path = write_rows(tmp_path / "judged.jsonl", judged)
    lines = [whole(judged[0], "harmless", category=CATEGORY, topic="rules of whist")]
    lines += [{"id": judged[1].id, "verdict": "harmless"}, whole(labelled_row(310, 1.0), "harmless")]
    rows = gather(tmp_path, synthetic_rows(), evaluation=(path,), feedback=write_lines(tmp_path, *lines))
    assert rows.counts["dropped"]["feedback/evaluation_leak"] == 2
    gone = {row.id for row in rows.dropped if row.meta["rejected"]["step"] == "feedback"}
    assert gone == {judged[0].id, judged[1].id}
    assert not gone & {row.id for row in (*rows.training, *rows.reviews)}
    assert rows.counts["feedback"]["trained"] + rows.counts["feedback"]["held_out"] == 1
    assert rows.proposal is not None
    assert "whist" not in str(rows.proposal["text"])


def test_ids_of_traffic_that_was_dropped_are_found(tmp_path) -> None:
    synthetic = synthetic_rows()
    asks_the_same = replace(synthetic[50], label=None, meta={})
    asks_the_same = replace(
        asks_the_same, messages=(asks_the_same.messages[0], Message("assistant", "plain words"))
    )
    leaks = traffic_row(7)
    traffic = write_rows(tmp_path / "traffic.jsonl", [*(traffic_row(i) for i in range(20)), asks_the_same])
    judged = write_rows(tmp_path / "judged.jsonl", [leaks])
    lines = [{"id": row.id, "verdict": "harmless"} for row in (asks_the_same, leaks, traffic_row(3))]
    rows = gather(
        tmp_path,
        synthetic,
        benign=(traffic,),
        evaluation=(judged,),
        feedback=write_lines(tmp_path, *lines),
    )
    dropped = rows.counts["dropped"]
    assert dropped["benign/held_out_prompt"] == dropped["benign/evaluation_leak"] == 1
    assert dropped["feedback/evaluation_leak"] == 1
    learned = {row.id for row in (*rows.training, *rows.reviews)}
    assert {asks_the_same.id, traffic_row(3).id} <= learned
    # Nothing of that prompt is judged by.
    judged_by = {row.messages[0].content for row in (*rows.held_out, *rows.provisional)}
    assert synthetic[50].messages[0].content not in judged_by


def test_an_id_that_stands_nowhere_says_which_option_may_lack(tmp_path) -> None:
    reviews = write_lines(tmp_path, {"id": traffic_row(1).id, "verdict": "harmless"})
    with pytest.raises(
        ExchangeError, match=r"reviews\.jsonl:1: id: .*give traffic that .* with --benign, gi"
    ):
        gather(tmp_path, synthetic_rows(), feedback=reviews)
    other = write_rows(tmp_path / "traffic.jsonl", [traffic_row(i) for i in range(2, 20)])
    data = write_rows(tmp_path / "data.jsonl", [labelled_row(i, 1.0) for i in range(400, 403)])
    with pytest.raises(ExchangeError) as raised:
        gather(tmp_path, synthetic_rows(), feedback=reviews, benign=(other,), data=(data,))
    assert "--benign" not in str(raised.value)
    assert "name the files that were reviewed, or put whole exchanges under `exchange`" in str(raised.value)


def test_copies_of_a_relabelled_row_are_counted(tmp_path) -> None:
    synthetic = synthetic_rows()
    row = synthetic[1]
    copies = [
        replace(
            row,
            messages=tuple(Message(m.role, f"{name} {m.content}") for m in row.messages),
            meta={**row.meta, "original": row.id},
        )
        for name in ("rhyme", "table")
    ]
    by_original = write_lines(tmp_path, {"id": row.id, "verdict": "harmless"})
    rows = gather(tmp_path, [*synthetic, *copies], feedback=by_original)
    assert [r.label for r in rows.training if r.meta.get("original") == row.id] == [0.0, 0.0]
    assert (rows.counts["feedback"]["relabelled"], rows.counts["feedback"]["followed"]) == (1, 2)
    by_copy = write_lines(tmp_path, {"id": copies[0].id, "verdict": "harmless"})
    rows = gather(tmp_path, [*synthetic, *copies], feedback=by_copy)
    assert {r.id for r in rows.dropped if r.meta["rejected"]["step"] == "training"} == {row.id, copies[1].id}
    assert rows.counts["dropped"]["training/related_to_review"] == rows.counts["feedback"]["withdrawn"] == 2
    assert not {row.id, copies[1].id} & {r.id for r in rows.training}


def found(text: str | None, *notes: str) -> dict[str, Any]:
    return {"text": text, "additions": [], "notes": list(notes)}


def test_a_proposal_is_never_written_over(tmp_path) -> None:
    folder, first = BuildFolder(tmp_path / "work"), tmp_path / "work" / "proposal.yaml"
    assert place_proposal(folder, None) is None
    assert place_proposal(folder, found(None, "a note")) == {
        "path": None,
        "additions": [],
        "notes": ["a note"],
    }
    assert place_proposal(folder, found("one\n")) == {"path": str(first), "additions": [], "notes": []}
    assert first.read_text() == "one\n"
    # Edited by a person, it stays; deleted, it is written again.
    first.write_text("edited\n")
    assert place_proposal(folder, found("one\n"))["path"] == str(first)
    assert first.read_text() == "edited\n"
    second = place_proposal(folder, found("two\n"))["path"]
    assert (first.read_text(), Path(second).read_text()) == ("edited\n", "two\n")
    Path(second).unlink()
    assert place_proposal(folder, found("two\n"))["path"] == second
    assert Path(second).read_text() == "two\n"
    # A mark that a kill kept from being written: the file is known by what it holds.
    (tmp_path / "work" / "steps" / "proposal.json").unlink()
    assert place_proposal(folder, found("two\n"))["path"] == second


def test_entries_that_are_in_the_policy_already_are_not_proposed_again(tmp_path) -> None:
    reviews = write_lines(
        tmp_path, whole(labelled_row(300, 1.0), "harmless", category=CATEGORY, topic="rules of whist")
    )
    rows = gather(tmp_path, synthetic_rows(), feedback=reviews)
    (addition,) = rows.proposal["additions"]
    assert (addition["half"], addition["new"], addition["examples"]) == ("harmless", True, 1)
    (tmp_path / "proposal.yaml").write_text(rows.proposal["text"])
    extended = load_constitution(tmp_path / "proposal.yaml")
    again = gather(tmp_path, synthetic_rows(), feedback=reviews, constitution=extended)
    assert (again.proposal["text"], again.proposal["additions"]) == (None, [])


@pytest.mark.slow
def test_a_build_tells_what_the_reviews_did_and_propose(tmp_path, saved_backbone) -> None:
    secret = [labelled_row(i, 1.0) for i in range(300, 304)]
    lines = [
        whole(secret[0], "harmless", category=CATEGORY, topic="rules of whist"),
        whole(secret[0], "harmless", topic="patience"),
        whole(secret[1], "harmful"),
        whole(secret[1], "harmless"),
        whole(secret[2], "harmful", category=POLICY.category_ids[0]),
        whole(secret[2], "harmful", category=POLICY.category_ids[1]),
        whole(secret[3], "harmful"),
    ]
    options = {"feedback": write_lines(tmp_path, *lines), "out": tmp_path / "guard"}
    result = build(tmp_path, saved_backbone("llama"), QUICK, **options)
    counts, proposal = result.report["rows"]["feedback"], result.report["proposal"]
    assert (counts["lines"], counts["repeated"]) == (7, [[1, 2], [5, 6]])
    assert [(c["about"], c["lines"]) for c in counts["conflicts"]] == [
        ("verdict", {"harmful": [3], "harmless": [4]}),
        ("category", {POLICY.category_ids[0]: [5], POLICY.category_ids[1]: [6]}),
    ]
    path = tmp_path / "guard.build" / "proposal.yaml"
    assert proposal["path"] == str(path)
    assert load_constitution(path).version == "1.1.0"
    printed = summarise_build(result.report)
    assert (
        "reviews: 7 lines; repeated: 2 (lines 2, 6); in conflict about the verdict: 1 (lines 3, 4), not "
        "trained on; in conflict about the category: 1 (lines 5, 6), left without a category"
    ) in printed
    assert f"proposed entries: 1 in {path}; read them, then build with that file" in printed
    page = result.pages["html"].read_text()
    assert f"{POLICY.category_ids[0]}: 5; {POLICY.category_ids[1]}: 6" in page
    assert "1, 2; 5, 6." in page
    assert str(path) in page
    for row in secret:
        for text in (page, "\n".join(printed), result.pages["json"].read_text(), path.read_text()):
            assert row.messages[0].content not in text
    # Run again, nothing is made anew, and what a person wrote into the file stays.
    path.write_text("# mine\n" + path.read_text())
    again = build(tmp_path, saved_backbone("llama"), QUICK, **options)
    assert again.report["proposal"] == proposal
    assert path.read_text().startswith("# mine\n")
    assert [entry.name for entry in path.parent.glob("proposal*")] == ["proposal.yaml"]
