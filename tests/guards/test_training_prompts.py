"""A guard keeps the fingerprints of its training prompts through every change."""

import pytest
from classifying import tiny_classifier
from parts import make_exchange, make_guard

from lockgate.calibration import choose_threshold
from lockgate.cascade import Cascade
from lockgate.errors import GuardError
from lockgate.exchanges import PromptPrints, prompt_text
from lockgate.guards import Guard, read_bundle

ROWS = [make_exchange(number) for number in range(8)]


def test_fingerprints_stay_with_the_guard(tmp_path) -> None:
    guard = make_guard(flag_on="answer")
    assert guard.training_prompts is None
    known = guard.with_training_prompts(PromptPrints.of(ROWS[:4])).with_training_prompts(
        PromptPrints.of(ROWS[3:5])
    )
    calibration = choose_threshold([float(i) for i in range(400)], [str(i) for i in range(400)], 0.02, 0.0)
    ready = known.with_cascade(tiny_classifier(), Cascade(0.0, 1.0, 0.5)).with_calibration(calibration)
    loaded = ready.save(tmp_path / "guard")
    prompts = [prompt_text(row) for row in ROWS]
    assert [match is not None for match in loaded.training_prompts.find(prompts)] == [True] * 5 + [False] * 3
    assert loaded.record.training_prompts.count == 5
    assert Guard.load(tmp_path / "guard", backbone=guard.backbone).cascade == ready.cascade
    # Written again over itself: the bundle is still known as one.
    loaded.save(tmp_path / "guard")


def test_a_bundle_without_them_is_as_it_was(tmp_path) -> None:
    make_guard().save(tmp_path / "guard")
    assert "training_prompts" not in (tmp_path / "guard" / "guard.yaml").read_text()
    assert read_bundle(tmp_path / "guard").prompts is None


def test_fingerprints_that_do_not_belong_to_the_bundle_are_refused(tmp_path) -> None:
    make_guard().with_training_prompts(PromptPrints.of(ROWS)).save(tmp_path / "guard")
    path = tmp_path / "guard" / "training.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(GuardError, match=r"training\.safetensors: .* missing or damaged"):
            read_bundle(tmp_path / "guard")
    path.unlink()
    with pytest.raises(GuardError, match="missing or damaged"):
        read_bundle(tmp_path / "guard")
    make_guard().save(tmp_path / "other")
    (tmp_path / "other" / "training.safetensors").write_bytes(whole)
    with pytest.raises(GuardError, match="names no such file"):
        read_bundle(tmp_path / "other")
