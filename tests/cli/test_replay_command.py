"""`lockgate replay` as a command: both kinds of record, what it prints, and its errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from logs import write_lines, write_log
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cli import main
from lockgate.decisions import Decision, Scores
from lockgate.durable import home
from lockgate.exchanges import read_exchanges, write_exchanges
from lockgate.guards import Guard
from lockgate.traffic import ReplayPlan, replay, replay_decisions

N = 30


@pytest.fixture(scope="module")
def folder(saved_backbone, tmp_path_factory) -> Path:
    """Two guards, exchanges with the ids of their responses, and the first guard's decisions about them."""
    folder = tmp_path_factory.mktemp("replay")
    backbone = Backbone.load(saved_backbone("llama"))
    rows = [replace(make_exchange(i, 1 + i % 9), meta={"id": f"chatcmpl-{i}"}) for i in range(N)]
    for seed, name in enumerate(("first", "second")):
        scores = sorted(score.mixed_max for score in make_guard(backbone, seed=seed).score_many(rows))
        make_guard(backbone, seed=seed, flag=(scores[N // 2] + scores[N // 2 + 1]) / 2).save(folder / name)
    write_exchanges(folder / "traffic.jsonl", rows)
    guard = Guard.load(folder / "first", backbone=backbone)
    lines = []
    for number, score in enumerate(guard.score_many(rows)):
        lines.append(
            Decision(
                id=f"chatcmpl-{number}", choice=0, time="", mode="shadow", guard=guard.sha256,
                measure=guard.record.measure, decision="halt" if score.flagged else "pass", enforced=False,
                finish_reason="stop", category=score.category, token_index=score.flag_token, stage=1,
                scores=Scores(score.max_prompt, score.max_answer, guard.thresholds.flag), prompt_tokens=1,
                completion_tokens=1, queue_ms=0.0, first_token_ms=None, total_ms=0.0,
            )
        )  # fmt: skip
    write_lines(folder / "decisions.jsonl", lines)
    write_log(folder / "decisions.db", lines)
    return folder


@pytest.fixture
def run(capsys, monkeypatch, folder, tmp_path):
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["replay", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_exchanges_are_what_the_library_says(run, folder, tmp_path, saved_backbone) -> None:
    backbone = saved_backbone("llama")
    first, second = (Guard.load(folder / name, backbone=backbone) for name in ("first", "second"))
    words = ("--log", "traffic.jsonl", "--backbone", backbone, "--json")
    code, out, err = run(
        "second", *words, "--decisions", "decisions.jsonl", "--rows", tmp_path / "rows.jsonl"
    )
    assert code == 0, err
    document = json.loads(out)
    files, logs = (Path("traffic.jsonl"),), (Path("decisions.jsonl"),)
    expected = replay(second, files, ReplayPlan(decisions=logs))
    assert document == {**expected.to_dict(), "rows": str(tmp_path / "rows.jsonl")}
    assert document["counts"]["newly_halted"] > 0
    assert document["unenforced"] > 0
    rows = list(read_exchanges(tmp_path / "rows.jsonl"))
    assert [row.id for row in rows] == [change["id"] for change in document["changes"]]
    assert "replay: " in err
    # The log holds the first guard's decisions, so that guard in their place says the same.
    code, out, _ = run("second", *words, "--against", "first")
    assert json.loads(out)["counts"] == document["counts"]
    assert json.loads(out)["changes"] == document["changes"]
    assert replay(second, files, against=first).to_dict()["changes"] == document["changes"]
    # Nothing is kept without --state.
    assert list((home() / "replay").glob("*")) == []
    assert run("second", *words, "--state", tmp_path / "state")[0] == 0
    assert len(list((tmp_path / "state").glob("*/*.parquet"))) == 1


def test_thresholds_are_counted_from_the_log_alone(run, folder, tmp_path) -> None:
    tried = ("--threshold", "-1000000", "--threshold", "1000000")
    code, out, err = run(
        "first", "--log", "decisions.jsonl", *tried, "--rows", tmp_path / "r.jsonl", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    logs = Path("decisions.jsonl")
    assert document == {
        **replay_decisions(folder / "first", (logs,), ReplayPlan((-1e6, 1e6))).to_dict(),
        "rows": str(tmp_path / "r.jsonl"),
    }
    low, own, high = document["thresholds"]
    assert (low["newly_halted"], low["newly_passed"]) == (document["admitted"], 0)
    assert (own["newly_halted"], own["newly_passed"]) == (0, 0)
    assert (high["newly_halted"], high["still_passed"]) == (0, document["admitted"])
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == document["admitted"]
    assert "canal" not in (tmp_path / "r.jsonl").read_text()


def test_the_database_gives_the_counts_of_its_exported_lines(run, tmp_path) -> None:
    found = []
    for name in ("decisions.jsonl", "decisions.db"):
        rows = tmp_path / f"{name}.rows"
        words = ("--log", name, "--threshold", "-1000000", "--rows", rows, "--json")
        code, out, err = run("first", *words)
        assert code == 0, err
        document = json.loads(out.replace(name, "LOG"))
        found.append((document, rows.read_text().replace(name, "LOG")))
    assert found[0] == found[1]


def test_text_gives_the_counts_and_says_what_is_unknown(run, folder) -> None:
    code, out, err = run("first", "--log", "decisions.jsonl", "--threshold", "-1000000")
    assert code == 0, err
    assert (
        "30 exchanges under first at threshold -1000000.0000, compared with the decisions of the log" in out
    )
    assert "threshold\tnewly halted\tnewly passed\tstill halted\tstill passed" in out
    assert "were halted in the record only" in out
    assert "newly halted\tchatcmpl-" in out
    code, out, _ = run("first", "--log", "decisions.jsonl")
    assert "change\tid" not in out


def test_scores_of_another_probe_need_the_text(run) -> None:
    code, _, err = run("second", "--log", "decisions.jsonl")
    assert code == 2
    assert "no line has scores of guard tiny (30 lines were written by another guard)" in err
    assert "replay the exchanges with their text" in err
    code, _, err = run("second", "--log", "decisions.jsonl", "--against", "first")
    assert code == 2
    assert "--against: this guard's scores are not those" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--log", "no.jsonl"), "no.jsonl: no such file"),
        (("--log", "postgresql://me@host/log"), "`lockgate log export` writes one"),
        (("--log", "traffic.jsonl", "--log", "decisions.jsonl"), "--log: decisions.jsonl holds decisions"),
        (("--log", "decisions.jsonl", "--state", "s"), "--state: decision logs hold no text"),
        (("--log", "decisions.jsonl", "--decisions", "decisions.jsonl"), "--decisions: leave them out"),
        (("--log", "traffic.jsonl", "--decisions", "decisions.jsonl", "--against", "second"), "give either"),
        (("--log", "traffic.jsonl", "--rows", "no/rows.jsonl"), "--rows: the folder no does not exist"),
        (("--log", "traffic.jsonl", "--threshold", "nan"), "--threshold: expected finite numbers"),
        (("--log", "traffic.jsonl", "--kind", "decisions"), "no line has scores of guard"),
    ],
)
def test_wrong_usage_is_exit_code_two(run, words, message) -> None:
    code, _, err = run("first", *words)
    assert code == 2
    assert message in err
