"""A guard whose second stage is a judge of text: its bundle, and what no longer fits it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from models import random_head, tiny_backbone
from text_judges import Counting, save_sequence, sequence_judge, talk

from lockgate.cascade import Cascade, Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.errors import GuardError, JudgeError
from lockgate.exchanges import Exchange
from lockgate.guards import Guard, read_bundle
from lockgate.judges import PolicyName, SequenceFile, open_judge, read_judge_file

RULE = Cascade(-1e9, 0.4, 0.25, probe_std=3.0, classifier_mean=0.5, stride=4, classifier_std=2.0)
ROWS = [Exchange(talk(f"the mill {number}?", "the boat and the orchard " * number)) for number in range(5)]


def one_stage(**thresholds) -> Guard:
    backbone = tiny_backbone()
    return Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone),
        thresholds=Thresholds(0.5, flag_on="both", **thresholds),
    )


@pytest.fixture
def judge(tmp_path):
    return sequence_judge(tmp_path / "judge")


def test_a_bundle_comes_back_with_its_judge(tmp_path, judge):
    guard = one_stage().with_cascade(None, RULE, judge=judge).save(tmp_path / "guard")
    again = Guard.load(tmp_path / "guard", backbone=tiny_backbone())
    assert again.judge.sha256 == guard.judge.sha256 == again.record.judge.sha256
    assert again.judge.file == read_judge_file(tmp_path / "guard" / "judge.yaml") == judge.file
    assert (again.record.judges, again.record.stages) == (("judge",), 2)
    assert again.record.judge.name == "judge"
    # Weights stay where they are.
    assert {path.name for path in (tmp_path / "guard").iterdir()} == {
        "guard.yaml", "constitution.yaml", "probe.safetensors", "README.md", "judge.yaml",
    }  # fmt: skip
    found = [[score.mixed_max for score in own.score_many(ROWS)] for own in (guard, again)]
    np.testing.assert_allclose(*found, atol=1e-5)
    card = (tmp_path / "guard" / "README.md").read_text()
    assert "a judge of text" in card
    assert "judge `judge` (sequence-classifier, SHA-256" in card
    assert "where the probe is alarmed, the judge judges the conversation" in card


def test_scores_are_those_of_the_rule_over_the_judges_verdicts(judge):
    """An oracle: the judge on each block's text, and the mixture by hand."""
    guard = one_stage().with_cascade(None, RULE, judge=judge)
    for score in guard.score_many(ROWS[1:], all_blocks=True):
        answer = guard.backbone.chat.encode_text(score.exchange.messages[-1].content)
        mixed = []
        for block in score.blocks:
            text = guard.backbone.decode(answer[: block.end])
            asked = score.exchange.messages[0].content
            logit = judge.judge([talk(asked, text) if text else talk(asked)])[0].logit
            assert block.classifier == pytest.approx(logit, abs=1e-4)
            if not np.isnan(block.probe):  # a block in which a token counts
                mixed.append(0.25 * block.probe / 3.0 + 0.75 * (logit - 0.5) / 2.0)
        assert score.mixed_max == pytest.approx(max(mixed), abs=1e-4)
        assert score.flagged == (max(mixed) > 0.4)


def test_a_stream_asks_the_judge_as_a_file_does(judge):
    guard = one_stage().with_cascade(None, RULE, judge=judge)
    for row, score in zip(ROWS, guard.score_many(ROWS), strict=True):
        with guard.stream(row.messages[:1]) as stream:
            for token in guard.backbone.chat.encode_text(row.messages[-1].content):
                stream.push(token)
            verdict = stream.finish()
        assert verdict.flagged == score.flagged
        assert stream.failure is None


def test_a_judge_that_gives_no_verdict_flags_in_a_stream_and_stops_a_calibration():
    guard = one_stage().with_cascade(None, Cascade(-1e9, 1e9, 0.5), judge=Counting(fail_at=0))
    with guard.stream(ROWS[1].messages[:1]) as stream:
        stream.push(guard.backbone.chat.encode_text("the boat"))
        assert stream.finish().flagged
        assert stream.failure == "the verdict is no finite number"
    assert guard.score(ROWS[1].messages).flagged
    with pytest.raises(JudgeError, match=r"exchange 0 \(\w{16}\): the judge gave no verdict: HTTP 503"):
        next(guard.score_many(ROWS[:1], all_blocks=True))


def test_a_folder_that_has_changed_no_longer_fits(tmp_path, judge):
    one_stage().with_cascade(None, RULE, judge=judge).save(tmp_path / "guard")
    shutil.rmtree(tmp_path / "judge")
    with pytest.raises(JudgeError, match="no such folder"):
        Guard.load(tmp_path / "guard", backbone=tiny_backbone())
    save_sequence(tmp_path / "judge", seed=1)
    with pytest.raises(GuardError, match="judge is not the one that the guard was calibrated with"):
        Guard.load(tmp_path / "guard", backbone=tiny_backbone())
    shutil.rmtree(tmp_path / "judge")
    save_sequence(tmp_path / "judge")
    (tmp_path / "judge" / "README.md").write_text("a note decides no verdict")
    Guard.load(tmp_path / "guard", backbone=tiny_backbone())


@pytest.mark.parametrize("change", ["edited", "gone", "extra"])
def test_the_settings_belong_to_the_bundle(tmp_path, judge, change):
    one_stage().with_cascade(None, RULE, judge=judge).save(tmp_path / "guard")
    place = tmp_path / "guard" / "judge.yaml"
    if change == "edited":
        place.write_text(place.read_text() + "reads: answer\n")
    elif change == "gone":
        place.unlink()
    else:
        one_stage().save(tmp_path / "guard")
        place.write_text("kind: endpoint")
    with pytest.raises(GuardError, match="judge"):
        read_bundle(tmp_path / "guard")


def test_a_judge_of_another_policy_is_refused(tmp_path):
    file = SequenceFile(path=str(save_sequence(tmp_path / "one")))
    for policy, fits in (("stage-magic", True), ("gardening", False)):
        version = one_stage().record.constitution.version
        named = open_judge(file.model_copy(update={"policy": PolicyName(name=policy, version=version)}))
        if fits:
            one_stage().with_cascade(None, RULE, judge=named)
            continue
        with pytest.raises(GuardError, match="is for the policy gardening"):
            one_stage().with_cascade(None, RULE, judge=named)


def test_a_judge_is_asked_alone(judge):
    from voices import random_text

    with pytest.raises(GuardError, match="it is asked alone, and found beside text"):
        one_stage().with_cascade(None, RULE, text=random_text(), judge=judge)


def test_another_judge_is_another_measure(judge, tmp_path):
    other = open_judge(SequenceFile(path=str(save_sequence(tmp_path / "other", seed=1))))
    guards = [one_stage().with_cascade(None, RULE, judge=own) for own in (judge, judge, other)]
    measures = [guard.record.measure for guard in guards]
    assert measures[0] == measures[1] != measures[2]


@pytest.mark.slow
def test_a_guard_without_a_judge_does_not_import_them(tmp_path):
    """Loading must stay fast."""
    code = "import lockgate.guards, sys; print([name for name in sys.modules if 'lockgate.judges' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
