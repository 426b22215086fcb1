"""A guard whose second stage has a text baseline: its bundle, its record and its card."""

import shutil

import numpy as np
import pytest
import yaml
from classifying import random_classifier, tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_backbone
from parts import make_exchange, make_guard, policy, rewrite
from voices import random_text

from lockgate.calibration import choose_threshold
from lockgate.cascade import Cascade
from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.durable import file_sha256
from lockgate.errors import GuardError
from lockgate.exchanges import PromptPrints
from lockgate.guards import Guard, Panel, TextStage, VoiceRecord, read_bundle

CASCADE = Cascade(-9.0, 0.5, 0.3, 0.1, 0.9, 0.2, 1.1, stride=3, tolerance=1e-3)
VOICES = (
    VoiceRecord(kind="classifier", weight=0.6, mean=0.3, std=1.7),
    VoiceRecord(kind="text", weight=0.4, mean=-0.2, std=0.4),
)
EXPECTED = "voices: expected one for each of classifier, text"
TEXT_FILES = ("text_baseline.json", "text_baseline.safetensors")


def both(**changes) -> Guard:
    parts = {"text": random_text(), "voices": VOICES, **changes}
    return make_guard().with_cascade(tiny_classifier(), CASCADE, **parts)


def text_alone(**changes) -> Guard:
    return make_guard().with_cascade(None, CASCADE, text=random_text(), **changes)


@pytest.fixture
def bundle(tmp_path):
    both().save(tmp_path / "guard")
    return tmp_path / "guard"


@pytest.mark.parametrize("make", [both, text_alone, lambda: text_alone(voices=VOICES[1:])])
def test_a_saved_guard_with_a_text_baseline_scores_the_same(make, tmp_path) -> None:
    made = make()
    loaded = made.save(tmp_path / "guard")
    assert loaded.text.sha256 == random_text().sha256
    assert (loaded.classifier is None) == (made.classifier is None)
    assert loaded.record.judges == made.record.judges
    assert (loaded.cascade, loaded.record.voices) == (CASCADE, made.record.voices)
    assert set(loaded.record.text.files) == set(TEXT_FILES)
    for row in (make_exchange(i, 20) for i in range(3)):
        one, other = made.score(row.messages), loaded.score(row.messages)
        assert other.mixed_max == pytest.approx(one.mixed_max, abs=1e-4)
        assert other.classifier_max == pytest.approx(one.classifier_max, abs=1e-4)
        assert one.stage == 2
    again = loaded.save(tmp_path / "again")
    for path in (tmp_path / "guard").rglob("*"):
        other = tmp_path / "again" / path.relative_to(tmp_path / "guard")
        assert path.is_dir() or other.read_bytes() == path.read_bytes()
    assert again.sha256 == loaded.sha256
    loaded.save(tmp_path / "guard")


def test_the_second_stage_is_what_the_record_says() -> None:
    assert text_alone().stages.second == TextStage(random_text(), tiny_backbone())
    assert isinstance(both().stages.second, Panel)
    shares = [(v.name, v.mean, v.std, v.weight) for v in both().stages.second.voices]
    assert shares == [(v.kind, v.mean, v.std, v.weight) for v in VOICES]
    assert (make_guard().text, text_alone().classifier) == (None, None)
    assert make_guard().record.judges == ()


def test_a_guard_of_one_judge_holds_nothing_of_the_other(tmp_path) -> None:
    text_alone().save(tmp_path / "text")
    make_guard().with_cascade(tiny_classifier(), CASCADE).save(tmp_path / "classifier")
    content = {
        name: yaml.safe_load((tmp_path / name / "guard.yaml").read_text()) for name in ("text", "classifier")
    }
    assert not {"classifier", "voices"} & set(content["text"])
    assert not {"text", "voices"} & set(content["classifier"])
    for present, absent in (("text", "classifier"), ("classifier", "text")):
        shutil.copytree(tmp_path / absent / absent, tmp_path / present / absent)
        with pytest.raises(GuardError, match=f"names no {'text baseline' if absent == 'text' else absent}"):
            read_bundle(tmp_path / present)


def test_a_changed_or_missing_text_baseline_is_named(bundle) -> None:
    for name in TEXT_FILES:
        path = bundle / "text" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + b"  ")
        with pytest.raises(GuardError, match=f"text/{name} is damaged"):
            read_bundle(bundle)
        path.unlink()
        with pytest.raises(GuardError, match="text: expected exactly"):
            read_bundle(bundle)
        path.write_bytes(whole)
    (bundle / "text" / "more").write_text("x")
    with pytest.raises(GuardError, match="expected exactly"):
        read_bundle(bundle)
    shutil.rmtree(bundle / "text")
    with pytest.raises(GuardError, match="lacks its text baseline"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["voices"][1].update(kind="oracle"), r"voices\.1\.kind: "),
        (lambda c: c["voices"][1].update(colour="red"), r"voices\.1\.colour: "),
        (lambda c: c["voices"][1].update(std=0.0), r"voices\.1\.std: "),
        (lambda c: c["voices"][1].update(mean=float("nan")), r"voices\.1\.mean: "),
        (lambda c: c["voices"][1].update(weight=-0.5), r"voices\.1\.weight: "),
        (lambda c: c["voices"][1].update(kind="classifier"), f"{EXPECTED}, found classifier, classifier"),
        (lambda c: c["voices"].pop(), f"{EXPECTED}, found classifier"),
        (lambda c: [voice.update(weight=0.0) for voice in c["voices"]], "weight above 0"),
        (lambda c: c.pop("voices"), EXPECTED),
        (lambda c: c.pop("cascade"), "belongs to a classifier or a text baseline"),
        (lambda c: c["text"].update(colour="red"), r"text\.colour: "),
    ],
)
def test_voices_that_make_no_sense_are_refused(bundle, change, message) -> None:
    rewrite(bundle / "guard.yaml", change)
    with pytest.raises(GuardError, match=message):
        read_bundle(bundle)


def test_another_text_baseline_in_its_place_is_refused(bundle) -> None:
    random_text(seed=9).save(bundle / "text")
    hashes = {path.name: file_sha256(path) for path in (bundle / "text").iterdir()}
    rewrite(bundle / "guard.yaml", lambda record: record["text"].update(files=hashes))
    with pytest.raises(GuardError, match="not the one that the guard was made with"):
        Guard.load(bundle, backbone=tiny_backbone())


def test_judges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GuardError, match="reads answers"):
        text_alone_of(random_text(view="answer"))
    for voices in (None, VOICES[:1], (*VOICES, VOICES[0])):
        with pytest.raises(GuardError, match=EXPECTED):
            both(voices=voices)
    silent = tuple(voice.model_copy(update={"weight": 0.0}) for voice in VOICES)
    with pytest.raises(GuardError, match="weight above 0"):
        both(voices=silent)
    with pytest.raises(GuardError, match="voices: expected one for each of text"):
        text_alone(voices=VOICES)
    for half in ({"text": random_text()}, {"cascade": CASCADE}, {"voices": VOICES}):
        with pytest.raises(GuardError, match="needs"):
            create(**half)
    assert create(text=random_text(), cascade=CASCADE).text is random_text()
    made = create(classifier=trained(), text=random_text(), voices=VOICES, cascade=CASCADE)
    assert made.record.judges == ("classifier", "text")


def trained():
    constitution = policy()[0]
    same = {"constitution": {"name": constitution.name, "version": str(constitution.version)}}
    return random_classifier(tiny_backbone(), training=same)


def text_alone_of(text: TextBaseline) -> Guard:
    return make_guard().with_cascade(None, CASCADE, text=text)


def create(**second) -> Guard:
    constitution, text = policy()
    return Guard.create(
        name="tiny", backbone=tiny_backbone(), constitution=constitution, constitution_yaml=text,
        head=make_guard().head, thresholds=make_guard().thresholds, **second,
    )  # fmt: skip


def test_changes_of_a_guard_keep_its_judges(bundle) -> None:
    guard = Guard.load(bundle, backbone=tiny_backbone())
    found = choose_threshold(np.arange(4000) / 1000, [str(i) for i in range(4000)], 0.01, 1e-3)
    for changed in (guard.with_calibration(found), guard.with_training_prompts(PromptPrints.of([]))):
        assert (changed.text, changed.classifier) == (guard.text, guard.classifier)
        assert changed.record.voices == list(VOICES)
    calibrated = guard.with_calibration(found).save(bundle)
    assert (calibrated.cascade.flag, calibrated.text.sha256) == (found.threshold, guard.text.sha256)
    # Another second stage takes the place of the whole old one.
    replaced = guard.with_cascade(guard.classifier, CASCADE)
    assert (replaced.text, replaced.record.text, replaced.record.voices) == (None, None, None)


def test_prompts_that_the_text_baseline_was_fitted_on_are_training_prompts(tmp_path) -> None:
    text = TextBaseline(
        TextBaselineConfig(bits=8), idf=random_text().idf, coefficients=random_text().coefficients,
        intercept=0.0, c=1.0, training_prompts=PromptPrints.of_texts(["why does the lock hold"]),
    )  # fmt: skip
    saved = text_alone_of(text).save(tmp_path / "guard")
    assert len(saved.training_prompts) == 1
    assert {path.name for path in (tmp_path / "guard" / "text").iterdir()} == set(TEXT_FILES)


def test_the_card_names_the_voices_with_their_weights(bundle, tmp_path) -> None:
    card = (bundle / "README.md").read_text()
    tags = yaml.safe_load(card.split("---")[1])["tags"]
    assert {"exchange-classifier", "text-baseline", "cascade"} <= set(tags)
    assert "0.6 x (classifier - 0.3000) / 1.7000 + 0.4 x (text baseline - -0.2000) / 0.4000" in card
    assert "the classifier and the text baseline judge the conversation" in card
    assert "0.7 x (stage 2 - 0.2000) / 1.1000" in card
    text_alone().save(tmp_path / "text")
    alone = (tmp_path / "text" / "README.md").read_text()
    assert "a text baseline. It reads" in alone
    assert "0.7 x (text baseline - 0.2000)" in alone
    assert "classifier" not in alone.split("## What it is meant to stop")[0].split("---")[2]


@settings(max_examples=5, deadline=None)
@given(weights=st.tuples(st.floats(0, 2), st.floats(0, 2)).filter(any))
def test_a_guard_scores_with_the_shares_of_its_record(weights) -> None:
    voices = [
        voice.model_copy(update={"weight": weight}) for voice, weight in zip(VOICES, weights, strict=True)
    ]
    guard = both(voices=voices)
    row = make_exchange(3, 20)
    (found,) = guard.score_many([row], all_blocks=True)
    apart = [next(voice.stage.read_blocks([row], stride=3)).logits for voice in guard.stages.second.voices]
    expected = [
        weights[0] * (a - 0.3) / 1.7 + weights[1] * (b + 0.2) / 0.4 for a, b in zip(*apart, strict=True)
    ]
    assert [block.classifier for block in found.blocks] == pytest.approx(
        expected[: len(found.blocks)], abs=1e-3
    )
