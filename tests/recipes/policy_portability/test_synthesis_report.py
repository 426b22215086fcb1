"""The summary of synthesis: put together, checked, and what it refuses."""

import json
import os
import shutil
from pathlib import Path

import pytest
from made_tables import separated, write_policy, write_value

from lockgate.errors import ConfigError
from recipes.embedded_guard.value_figures import SETS
from recipes.policy_portability import synthesis_report
from recipes.policy_portability.build_records import read_build
from recipes.policy_portability.policy_pairs import POLICIES, RESULTS, load_policies

SECONDS = {"synthesize": 1200.0, "train": 600.0, "score-calibration": 60.0}


def write_build(folder: Path, name: str, *, after: float = 2000.0, **changes: object) -> Path:
    """A build's folder; its report is written `after` seconds behind its start."""
    (folder / "steps").mkdir(parents=True)
    (folder / "steps" / "synthesize.json").write_text("{}")
    policy = load_policies()[name]
    report = {
        "constitution": {"name": name, "version": "1", "sha256": policy.sha256},
        "seconds": SECONDS,
        "provenance": {
            "commit": "c",
            "seeds": {},
            "versions": {},
            "command": ["lockgate", "build", name, "--out", f"{folder.parent}/guard"],
            "inputs": {f"{folder.parent}/traffic.jsonl": "5"},
        },
        "backbone": "embedded",
        "guard_sha256": f"guard of {name}",
        **dict.fromkeys(("calibrated", "threshold", "claim", "rows", "held_out", "generator")),
        **changes,
    }
    (folder / "report.json").write_text(json.dumps(report))
    start = 1_000_000.0
    os.utime(folder / "steps" / "synthesize.json", (start, start + SECONDS["synthesize"]))
    os.utime(folder / "report.json", (start, start + after))
    return folder


@pytest.fixture
def made(tmp_path):
    """All parts but the builds' record; returns the options that every call needs."""
    results = tmp_path / "synthesis"
    results.mkdir()
    write_policy(results / "policy.parquet", {name: f"guard of {name}" for name in POLICIES})
    write_value(results / "value.parquet", dict(zip(SETS, map(separated, (2, 8, 5)), strict=True)))
    shutil.copy(RESULTS / "dedup.json", results)
    blocks = {"quality": {"documents_per_s": 640.0, "ci": [600.0, 700.0]}}
    speed = {"documents": 2000, "answer_words": 100, "machine": {"cores": 2}, "blocks": blocks}
    (results / "throughput.json").write_text(json.dumps(speed))
    memory = {"command": "c", "blocks": ["quality"], "sizes": [], "bytes_per_row": 640}
    (results / "memory.json").write_text(json.dumps(memory))
    for name in POLICIES:
        write_build(tmp_path / f"{name}.build", name)
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- synthesis:start -->\nold\n<!-- synthesis:end -->\nafter\n")
    places = [f"--results={results}", f"--summary={tmp_path / 'synthesis.json'}", f"--page={page}"]
    return [*places, "--resamples=20"]


def builds(tmp_path: Path) -> list[str]:
    return [f"--build={name}={tmp_path / f'{name}.build'}" for name in POLICIES]


def test_the_summary_is_put_together_and_checked(made, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match=r"builds\.json: lockgate build "):
        synthesis_report.main(made)
    synthesis_report.main([*made, *builds(tmp_path)])
    found = json.loads((tmp_path / "synthesis.json").read_text())
    assert found["build_minutes"] == 33.3
    assert found["policy"]["n_pairs"] == 3
    # One of six verdicts on pairs is wrong, one of six harmful exchanges is missed.
    assert found["policy"]["both_right"] == pytest.approx(5 / 6, abs=1e-4)
    assert found["policy"]["balanced_accuracy"] == pytest.approx((5 / 6 + 1) / 2, abs=1e-4)
    assert found["policy"]["keyword_balanced_accuracy"] == 0.5
    assert found["tpr"] == {"public": 0.5, "synthetic": 1.0, "both": 0.75}
    assert found["tpr_is"]["harmful_by_source"] == {"a": 2, "b": 6}
    assert found["memory"] == {"blocks": ["quality"], "sizes": [], "bytes_per_row": 640}
    assert found["rows_per_second"] == {"quality": 640.0}
    assert set(found["dedup"]["table"]) == {"default", "document"}
    assert str(tmp_path) not in json.dumps(found) + (tmp_path / "synthesis" / "builds.json").read_text()
    synthesis_report.main([*made, "--check"])
    assert "every figure follows" in capsys.readouterr().out
    page = (tmp_path / "results.md").read_text()
    assert page.startswith("before\n<!-- synthesis:start -->\nMeasured")
    assert page.endswith("<!-- synthesis:end -->\nafter\n")
    assert "took 33 minutes" in page
    assert "judge 3 hand-written pairs" in page
    (tmp_path / "results.md").write_text(page.replace("33 minutes", "3 minutes"))
    with pytest.raises(SystemExit, match=r"results\.md says something else than synthesis\.json"):
        synthesis_report.main([*made, "--check"])


def test_what_differs_is_noticed(made, tmp_path) -> None:
    with pytest.raises(SystemExit, match="not written yet"):
        synthesis_report.main([*made, *builds(tmp_path), "--check"])
    synthesis_report.main(made)
    write_value(tmp_path / "synthesis" / "value.parquet", dict.fromkeys(SETS, separated(8)))
    with pytest.raises(SystemExit, match=r"synthesis\.json differs from the committed results: tpr, tpr_is"):
        synthesis_report.main([*made, "--check"])
    dedup = json.loads((tmp_path / "synthesis" / "dedup.json").read_text())
    dedup["table"]["default"][1]["joined"] += 1
    (tmp_path / "synthesis" / "dedup.json").write_text(json.dumps(dedup))
    synthesis_report.main(made)
    with pytest.raises(SystemExit, match=r"dedup\.json: its table is not what the seeds give"):
        synthesis_report.main([*made, "--check"])
    write_policy(tmp_path / "synthesis" / "policy.parquet", dict.fromkeys(POLICIES, "another"))
    with pytest.raises(SystemExit, match=r"another guard for stage-magic than builds\.json records"):
        synthesis_report.main(made)


def test_missing_parts_name_their_commands(made, tmp_path) -> None:
    for path in (tmp_path / "synthesis").iterdir():
        path.unlink()
    with pytest.raises(SystemExit) as ended:
        synthesis_report.main([*made, *builds(tmp_path)[:1]])
    text = str(ended.value)
    assert "builds.json: magic-school: lockgate build" in text
    for part in (
        "recipes.policy_portability.evaluate --guard",
        "recipes.embedded_guard.synthetic --out",
        "-m benchmarks.dedup",
        "-m benchmarks.synthesis --only throughput",
        "-m benchmarks.synthesis --only memory",
    ):
        assert part in text
    assert not (tmp_path / "synthesis.json").exists()
    with pytest.raises(SystemExit, match="expected NAME=DIR with a name of stage-magic, magic-school"):
        synthesis_report.main([*made, "--build=other=x"])


def test_builds_that_were_interrupted_or_are_of_other_policies_are_refused(tmp_path) -> None:
    policy = load_policies()["stage-magic"]
    later = write_build(tmp_path / "later", "stage-magic", after=9000.0)
    with pytest.raises(ConfigError, match=r"took 31\.0 minutes, but 150\.0 lie between.*unknown"):
        read_build(later, policy)
    killed = write_build(tmp_path / "killed", "stage-magic", after=9000.0, lost_attempts={"train": 1})
    with pytest.raises(ConfigError, match=r"attempts that were killed are not counted \(train\)"):
        read_build(killed, policy)
    stopped = write_build(tmp_path / "stopped", "stage-magic", after=9000.0, lost_attempts={})
    assert read_build(stopped, policy)["minutes"] == 31.0
    record = read_build(later, policy, interrupted=True)
    assert (record["minutes"], record["in_one_go"]) == (31.0, False)
    copied = write_build(tmp_path / "copied", "stage-magic", after=1200.0)
    with pytest.raises(ConfigError, match=r"took 31\.0 minutes, but 20\.0 lie"):
        read_build(copied, policy)
    whole = read_build(write_build(tmp_path / "whole", "stage-magic"), policy)
    assert (whole["minutes"], whole["minutes_in_steps"], whole["in_one_go"]) == (33.3, 31.0, True)
    assert whole["lost_attempts"] == {}
    assert whole["provenance"]["command"] == ["lockgate", "build", "stage-magic", "--out", "guard"]
    with pytest.raises(
        ConfigError, match="built from stage-magic, or another version of it than magic-school"
    ):
        read_build(later, load_policies()["magic-school"])
    with pytest.raises(ConfigError, match="no finished build there"):
        read_build(tmp_path, policy)
