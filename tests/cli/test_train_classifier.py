"""`lockgate train classifier` from files to a folder, its refusals, and going on."""

import json

import pytest
from judges import planted
from parts import make_guard

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier
from lockgate.cli import main
from lockgate.constitution import hash_constitution, load_constitution
from lockgate.exchanges import read_exchanges, write_exchanges
from lockgate.traffic import MiningPlan, manifest_of, mine

QUICK = ("--layers", 1, "--rank", 2, "--max-tokens", 100, "--tokens", 600, "--tokens-per-step", 200)


@pytest.fixture
def run(capsys, saved_backbone, tmp_path):
    write_exchanges(tmp_path / "train.jsonl", [planted(i, float(i % 2)) for i in range(12)])
    write_exchanges(tmp_path / "harmless.jsonl", [planted(i, 0.0) for i in range(4)])

    def run(*arguments, data="train.jsonl", words="y,n"):
        given = ("--input", tmp_path / data, "--output", tmp_path / "c", "--words", words)
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    str(part)
                    for part in (
                        "train",
                        "classifier",
                        *given,
                        "--backbone",
                        saved_backbone("llama"),
                        *QUICK,
                        *arguments,
                    )
                ]
            )
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_from_labelled_rows_to_a_folder(run, tmp_path, saved_backbone) -> None:
    code, out, err = run("--json", "--reads", "answer", "--head", "value")
    assert code == 0, err
    made = json.loads(out)
    loaded = ExchangeClassifier.load(tmp_path / "c", Backbone.load(saved_backbone("llama")))
    assert (loaded.sha256, loaded.reads, loaded.head) == (made["sha256"], "answer", "value")
    policy = load_constitution("general-harms")
    recorded = {"name": policy.name, "version": str(policy.version), "sha256": hash_constitution(policy)}
    assert loaded.record.training["constitution"] == recorded
    assert len(loaded.training_prompts) == 12
    assert loaded.record.training["config"]["layers"] == loaded.record.adapter.layers
    assert made["exchanges"] == {"harmful": 6, "harmless": 6}
    assert "train: step 1/" in err
    assert not (tmp_path / "c.state").exists()
    code, out, _ = run("--constitution", "stage-magic")
    assert code == 0
    loaded = ExchangeClassifier.load(tmp_path / "c", Backbone.load(saved_backbone("llama")))
    assert loaded.record.training["constitution"]["name"] == "stage-magic"
    assert out.startswith("classifier in ")


def test_bad_usage_is_one_line(run, tmp_path) -> None:
    cases = [
        ((), {"words": " yes, no"}, "tokens for llama"),
        ((), {"words": "y"}, "--words"),
        ((), {"data": "harmless.jsonl"}, "both labels"),
        (("--reads", "minds"), {}, "--reads"),
        (("--head", "two"), {}, "--head"),
        (("--weighting", "max"), {}, "weighting"),
        (("--depth", 9), {}, "has 3 blocks"),
        (("--constitution", "nowhere"), {}, "nowhere"),
    ]
    for arguments, options, expected in cases:
        code, out, err = run(*arguments, **options)
        assert (code, out) == (2, ""), arguments
        assert expected in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.fixture
def mined(tmp_path, saved_backbone):
    """A guard, a file that it mined, and another guard."""
    backbone = Backbone.load(saved_backbone("llama"))
    guard = make_guard(backbone).save(tmp_path / "guard")
    make_guard(backbone, seed=1).save(tmp_path / "other")
    write_exchanges(tmp_path / "pool.jsonl", [planted(100 + i, 0.0) for i in range(12)])
    return mine(guard, [tmp_path / "pool.jsonl"], tmp_path / "hard.jsonl", MiningPlan(count=4))


def load(folder, saved_backbone) -> ExchangeClassifier:
    return ExchangeClassifier.load(folder / "c", Backbone.load(saved_backbone("llama")))


def test_mined_rows_train_and_the_record_names_their_guard(run, tmp_path, saved_backbone, mined) -> None:
    again = tmp_path / "again.jsonl"
    again.write_bytes((tmp_path / "hard.jsonl").read_bytes())
    manifest_of(again).write_bytes(manifest_of(tmp_path / "hard.jsonl").read_bytes())
    options = ("--mined", tmp_path / "hard.jsonl", "--mined", again, "--for-guard", tmp_path / "guard")
    code, _, err = run(*options)
    assert code == 0, err
    made = load(tmp_path, saved_backbone)
    # Each mined exchange trains once, also if two files hold it.
    assert made.record.training["exchanges"] == {"harmful": 6, "harmless": 6 + 4}
    first, second = made.record.training["selection"]["mined"]
    assert first == second
    assert first["guard"] == mined["guard"]
    assert (first["file"]["rows"], first["cut"]) == (4, mined["cut"])
    hard = list(read_exchanges(tmp_path / "hard.jsonl"))
    assert all(
        match is not None for match in made.training_prompts.find([r.messages[0].content for r in hard])
    )


def test_a_screen_drops_easy_harmless_rows_and_goes_on(run, tmp_path, saved_backbone, mined) -> None:
    screen = ("--screen", tmp_path / "guard", "--screen-above", mined["cut"], "--screen-keep", 0)
    code, _, err = run(*screen, "--mined", tmp_path / "hard.jsonl", "--json")
    assert code == 0, err
    record = load(tmp_path, saved_backbone).record.training
    counts = record["selection"]["screen"]["counts"]
    assert (counts["harmful"], counts["drawn"], counts["above"] + counts["left_out"]) == (6, 0, 6)
    assert record["exchanges"] == {"harmful": 6, "harmless": counts["above"] + 4}
    assert not (tmp_path / "c.screen").exists()


@pytest.mark.slow
def test_what_cannot_train_a_cascade_is_refused_before_anything_is_read(run, tmp_path, mined) -> None:
    hard, guard, other = tmp_path / "hard.jsonl", tmp_path / "guard", tmp_path / "other"
    (tmp_path / "bare.jsonl").write_bytes(hard.read_bytes())
    write_exchanges(tmp_path / "odd.jsonl", [planted(i, float(i % 2)) for i in range(4)])
    turned = [row.to_dict() | {"label": 1.0, "meta": {}} for row in read_exchanges(hard)][:1]
    (tmp_path / "turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    cases = [
        (("--mined", hard, "--for-guard", other), {}, "mined by another guard"),
        (("--mined", hard, "--screen", other, "--screen-above", 0), {}, "mined by another guard"),
        (("--mined", tmp_path / "bare.jsonl"), {}, "bare.jsonl.manifest.json: not a readable manifest"),
        (
            ("--mined", hard, "--input", tmp_path / "turned.jsonl"),
            {},
            "1 mined exchanges are labelled harmful",
        ),
        (("--mined", hard), {"data": "harmless.jsonl"}, "both labels"),
        (("--screen", guard), {}, "--screen: the guard has one stage"),
        (("--screen", guard, "--for-guard", other), {}, "different probes"),
        (("--screen", tmp_path / "no-guard"), {}, "no such guard"),
        (("--screen", guard, "--screen-above", 0), {"data": "harmless.jsonl"}, "both labels"),
        (("--screen", guard, "--screen-above", 0, "--screen-keep", 2), {}, "--screen-keep is 2"),
        (("--screen", guard, "--screen-above", 0, "--reads", "prompt"), {}, "--reads prompt"),
        (("--screen-keep", 0.5), {}, "--screen-keep belongs to a screen"),
        (("--max-bundle-mb", 0.004), {}, "a classifier of 0.0041 MB; a guard's bundle may have 0.004 MB"),
        (("--max-bundle-mb", 0.005, "--for-guard", guard), {}, "and the rest of the bundle takes"),
    ]
    for arguments, options, expected in cases:
        code, out, err = run(*arguments, **options)
        assert (code, out) == (2, ""), arguments
        assert expected in err
        assert err.count("\n") == 1, err
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "c.screen").exists()
