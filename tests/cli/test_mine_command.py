"""`lockgate mine` from files to a file and a manifest, and what it refuses."""

import json

import pytest
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.cli import main
from lockgate.exchanges import read_exchanges, write_exchanges
from lockgate.traffic import MINED, manifest_of


@pytest.fixture
def run(capsys, saved_backbone, tmp_path):
    make_guard(Backbone.load(saved_backbone("llama")), flag=0.2).save(tmp_path / "guard")
    rows = [make_exchange(i, 2 + i % 9, label=float(i % 4 == 3)) for i in range(16)]
    write_exchanges(tmp_path / "pool.jsonl", rows)
    write_exchanges(tmp_path / "test.jsonl", [make_exchange(500, 30), rows[4]])
    write_exchanges(tmp_path / "harmful.jsonl", [row for row in rows if row.label == 1.0])
    write_exchanges(tmp_path / "traffic.jsonl", [make_exchange(i, 3) for i in range(5)])

    def run(*arguments, pool="pool.jsonl"):
        given = ["mine", tmp_path / "guard", "--input", tmp_path / pool, "--output", tmp_path / "hard.jsonl"]
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*given, "--backbone", saved_backbone("llama"), *arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_a_pool_is_mined_into_a_file_with_a_manifest(run, tmp_path) -> None:
    kept = tmp_path / "kept.jsonl"
    code, out, err = run("--count", 3, "--round", 2, "--keep-harmful", kept, "--json")
    assert code == 0, err
    assert "without --held-out nothing is checked" in err
    found = json.loads(out)
    rows = list(read_exchanges(tmp_path / "hard.jsonl"))
    assert (found["file"]["rows"], len(rows), found["round"]) == (3, 3, 2)
    assert all(row.meta[MINED]["guard"] == found["guard"]["sha256"] for row in rows)
    del found["output"]
    assert json.loads(manifest_of(tmp_path / "hard.jsonl").read_text()) == found
    assert [row.label for row in read_exchanges(kept)] == [1.0] * 4
    code, out, err = run("--top", 0.5, "--held-out", tmp_path / "test.jsonl", "--drop-overlap")
    assert code == 0, err
    assert "nothing is checked" not in err
    left = 12 - json.loads(manifest_of(tmp_path / "hard.jsonl").read_text())["kinds"]["overlap"]
    assert left < 12
    assert f"{-(-left // 2)} of {left} harmless exchanges in " in out
    assert "the threshold of stage 1: " in out
    assert "left out: 4 harmful, " in out
    assert f"made\t{-(-left // 2)}\t{left}" in out
    code, _, err = run("--unlabelled-as", 0, pool="traffic.jsonl")
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "pool", "words"),
    [
        ((), "harmful.jsonl", "--input: no harmless exchange to mine from among 4 (4 harmful, "),
        ((), "traffic.jsonl", "5 without a label"),
        ((), "none.jsonl", "none.jsonl"),
        (("--held-out", "test.jsonl"), "pool.jsonl", "--held-out: "),
        (("--held-out", "none.jsonl"), "pool.jsonl", "none.jsonl: no such file"),
        (("--drop-overlap",), "pool.jsonl", "--drop-overlap: give the held-out prompts"),
        (("--top", "0"), "pool.jsonl", "--top is 0"),
        (("--top", "0.1", "--count", "3"), "pool.jsonl", "either --top"),
        (("--stage", "2"), "pool.jsonl", "--stage: this guard has one stage"),
        (("--stage", "3"), "pool.jsonl", "--stage is 3"),
        (("--unlabelled-as", "1"), "pool.jsonl", "--unlabelled-as is 1"),
        (("--output", "pool.jsonl"), "pool.jsonl", "--output: "),
        (("--output", "hard.txt"), "pool.jsonl", "unknown kind of file"),
    ],
)
def test_what_cannot_be_mined_is_one_line_before_the_pool_is_read(
    run, tmp_path, arguments, pool, words
) -> None:
    given = [
        tmp_path / part if str(part).endswith(("l", "t")) and "-" not in part else part for part in arguments
    ]
    code, out, err = run(*given, pool=pool)
    assert (code, out) == (2, "")
    assert words in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    assert not list(tmp_path.glob("*.state"))
    assert not (tmp_path / "hard.jsonl").exists()
