"""A guard in another precision: it warns, says what differs, and is refused if it computes something else."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml
from models import tiny_backbone
from parts import make_exchange, make_guard

import lockgate
from lockgate.backbones import Backbone
from lockgate.errors import BackboneMismatch, ConfigError, PrecisionWarning
from lockgate.guards import Guard
from lockgate.guards._checks import fingerprint_tolerance, verify_backbone

SHIFT = "its threshold was set in float32 on cpu, and it computes in bfloat16 on cpu"


@pytest.fixture(scope="module")
def made(saved_backbone, tmp_path_factory):
    """A saved guard and its backbone's folder."""
    path = saved_backbone("llama")
    bundle = tmp_path_factory.mktemp("guard") / "g"
    make_guard(Backbone.load(path, device="cpu")).save(bundle)
    return bundle, path


def test_the_guards_own_precision_is_silent_and_another_one_warns(made) -> None:
    bundle, path = made
    assert lockgate.load(bundle, backbone=path, device="cpu").precision_shift is None
    for dtype in ("bfloat16", "float16"):
        with pytest.warns(PrecisionWarning, match=f"computes in {dtype} on cpu") as caught:
            guard = lockgate.load(bundle, backbone=path, device="cpu", dtype=dtype)
        assert len(caught) == 1
        assert guard.precision_shift == SHIFT.replace("bfloat16", dtype)
        assert guard.backbone.placement.dtype == dtype
        assert np.isfinite(guard.score([{"role": "user", "content": "a lock"}]).max_prompt)


def test_auto_is_the_precision_of_the_record_and_calibration_moves_it(made, tmp_path) -> None:
    bundle, path = made
    with pytest.warns(PrecisionWarning):
        guard = Guard.load(bundle, backbone=path, device="cpu", dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = guard.save(tmp_path / "kept")
        assert kept.precision_shift == SHIFT
        moved = guard.with_precision().save(tmp_path / "moved")
        assert moved.precision_shift is None
        again = Guard.load(tmp_path / "moved", backbone=path, device="cpu")
    assert again.backbone.placement.dtype == again.record.backbone.dtype == "bfloat16"
    rows = [make_exchange(n) for n in range(3)]
    assert [s.mixed_max for s in again.score_many(rows)] == [s.mixed_max for s in guard.score_many(rows)]
    with pytest.warns(PrecisionWarning, match="set in bfloat16 on cpu, and it computes in float32"):
        Guard.load(tmp_path / "moved", backbone=path, device="cpu", dtype="float32")


def test_records_of_a_cpu_name_no_device_and_older_versions_read_them(made, tmp_path) -> None:
    content = yaml.safe_load((made[0] / "guard.yaml").read_text())
    assert "device" not in content["backbone"]
    guard = Guard.load(made[0], backbone=made[1], device="cpu")
    there = guard.record.backbone.model_copy(update={"device": "cuda"})
    moved = Guard(
        guard._bundle._replace(record=guard.record.model_copy(update={"backbone": there})), guard.backbone
    )
    saved = moved.save(tmp_path / "g")
    assert yaml.safe_load((tmp_path / "g" / "guard.yaml").read_text())["backbone"]["device"] == "cuda"
    assert (
        saved.precision_shift == "its threshold was set in float32 on cuda, and it computes in float32 on cpu"
    )
    assert "float32 on cuda" in (tmp_path / "g" / "README.md").read_text()


def test_a_loaded_backbone_keeps_its_place(made) -> None:
    backbone = Backbone.load(made[1], device="cpu")
    assert Guard.load(made[0], backbone=backbone, device="cpu", dtype="float32").backbone is backbone
    with pytest.raises(
        ConfigError, match="dtype bfloat16: the backbone is loaded already, in float32 on cpu"
    ):
        Guard.load(made[0], backbone=backbone, dtype="bfloat16")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_roundings_are_within_the_tolerance_and_another_computation_is_not(
    saved_backbone, architecture, dtype
) -> None:
    path = saved_backbone(architecture)
    record = make_guard(Backbone.load(path, device="cpu")).record.backbone
    half = Backbone.load(path, device="cpu", dtype=dtype)
    verify_backbone(record, half)
    allowed = fingerprint_tolerance(record, dtype)
    assert allowed < 0.5 * float(np.std(record.fingerprint))
    half.__dict__["identity"] = replace(
        half.identity, fingerprint=tuple(value + 1.1 * allowed for value in record.fingerprint)
    )
    with pytest.raises(BackboneMismatch, match="computes something else"):
        verify_backbone(record, half)


def test_float32_has_the_narrow_tolerance() -> None:
    record = make_guard(tiny_backbone()).record.backbone
    assert fingerprint_tolerance(record, "float32") == 0.05
    assert fingerprint_tolerance(record.model_copy(update={"device": "cuda"}), "float32") == 0.05
    assert fingerprint_tolerance(record.model_copy(update={"dtype": "bfloat16"}), "float32") > 0.05
