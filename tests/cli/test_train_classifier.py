"""`lockgate train classifier` from files to a folder, its refusals, and going on."""

import json

import pytest
from judges import planted

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier
from lockgate.cli import main
from lockgate.constitution import hash_constitution, load_constitution
from lockgate.exchanges import write_exchanges

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
