"""A bundle is read completely or not at all, and the error names the file at fault."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from models import random_head, tiny_backbone
from parts import make_exchange, make_guard, rewrite

from lockgate.calibration import choose_threshold
from lockgate.constitution import load_constitution
from lockgate.errors import BackboneMismatch, ConfigError, GuardError
from lockgate.guards import (
    Guard,
    GuardRecord,
    TrainingRecord,
    bundle_folder,
    check_target,
    is_shipped,
    read_bundle,
)
from lockgate.guards._bundle import FILES, Bundle


@pytest.fixture
def bundle(tmp_path) -> Path:
    make_guard().save(tmp_path / "guard")
    return tmp_path / "guard"


def test_a_saved_guard_scores_the_same(tmp_path) -> None:
    made = make_guard()
    saved = made.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", backbone=tiny_backbone())
    rows = [make_exchange(i).messages for i in range(4)]
    assert [made.score(row).max_score for row in rows] == [loaded.score(row).max_score for row in rows]
    assert saved.thresholds == loaded.thresholds == made.thresholds
    assert loaded.constitution == made.constitution
    assert loaded.head.category_ids == made.head.category_ids
    assert made.sha256 == ""
    assert loaded.sha256 == hashlib.sha256((tmp_path / "guard" / "guard.yaml").read_bytes()).hexdigest()
    assert {path.name for path in (tmp_path / "guard").iterdir()} == set(FILES)


def test_saving_what_was_loaded_changes_no_byte(bundle, tmp_path) -> None:
    Guard.load(bundle, backbone=tiny_backbone()).save(tmp_path / "again")
    for name in FILES:
        assert (bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_windows_line_ends_in_a_constitution_survive(tmp_path) -> None:
    text = make_guard()._bundle.constitution_yaml.replace("\n", "\r\n")
    made = make_guard()
    guard = Guard(Bundle(made.record, made.constitution, text, made.head), made.backbone)
    loaded = guard.save(tmp_path / "guard")
    assert loaded._bundle.constitution_yaml == text
    assert loaded.save(tmp_path / "again").record == loaded.record


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(bundle, name) -> None:
    (bundle / name).unlink()
    with pytest.raises(GuardError, match=f"the bundle lacks {name}"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_was_cut_anywhere(bundle, name) -> None:
    path = bundle / name
    whole = path.read_bytes()
    step = max(1, len(whole) // 40)
    for length in [*range(0, len(whole), step), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(GuardError, match=name):
            read_bundle(bundle)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_changed_byte_anywhere(bundle, name) -> None:
    path = bundle / name
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(GuardError, match=name):
            read_bundle(bundle)
    path.write_bytes(whole + b"\n")
    with pytest.raises(GuardError, match=name):
        read_bundle(bundle)


def test_the_card_is_for_readers_and_may_be_edited(bundle) -> None:
    (bundle / "README.md").write_text("our own words")
    read_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), "guard.yaml: colour: "),
        (lambda c: c["thresholds"].update(colour="red"), "guard.yaml: thresholds.colour: "),
        (lambda c: c.update(format=2), "guard.yaml: format: .*bundle format 1"),
        (lambda c: c.pop("format"), "guard.yaml: format: "),
        (lambda c: c.pop("probe_sha256"), "guard.yaml: probe_sha256: "),
        (lambda c: c["thresholds"].update(flag=float("nan")), "guard.yaml: thresholds: "),
        (lambda c: c["thresholds"].update(flag="high"), r"guard.yaml: thresholds\.flag: "),
        (lambda c: c["thresholds"].update(tolerance=-1.0), "guard.yaml: thresholds: "),
        (lambda c: c["thresholds"].update(flag_on="prompt"), r"guard.yaml: thresholds\.flag_on: "),
        (lambda c: c.update(gamma=0.5), "guard.yaml: gamma 0.5 differs"),
        (lambda c: c["constitution"].update(sha256="0" * 64), "constitution.yaml is not the one"),
        (lambda c: c.update(probe_sha256="0" * 64), "probe.safetensors is damaged"),
    ],
)
def test_content_that_is_not_a_guard(bundle, change, message) -> None:
    rewrite(bundle / "guard.yaml", change)
    with pytest.raises(GuardError, match=message):
        read_bundle(bundle)


@pytest.mark.parametrize(
    "text", ["", "[]", "a: b: c", "null", "{" * 5000, "!!python/object:os.system x", "\x00"]
)
def test_text_that_is_no_record(bundle, text) -> None:
    (bundle / "guard.yaml").write_text(text)
    with pytest.raises(GuardError, match=r"guard\.yaml"):
        read_bundle(bundle)


def test_no_bundle_at_all(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(GuardError, match="no such guard"):
            Guard.load(path)
    with pytest.raises(GuardError, match="the bundle lacks"):
        Guard.load(tmp_path)


def test_another_backbone_is_refused(bundle) -> None:
    for other, difference in (
        (tiny_backbone("llama", seed=1), "tensors_sha256"),
        (tiny_backbone("qwen2"), "tensors_sha256"),
        (tiny_backbone("gemma2"), "template_sha256, tensors_sha256, tokenizer_sha256"),
    ):
        with pytest.raises(BackboneMismatch, match=f"differs in .*{difference}"):
            Guard.load(bundle, backbone=other)


def test_a_backbone_is_loaded_by_its_folder(bundle, saved_backbone) -> None:
    loaded = Guard.load(bundle, backbone=saved_backbone("llama"))
    assert loaded.backbone.source == str(saved_backbone("llama"))


@pytest.mark.parametrize("value", [9.0, float("nan")])
def test_a_library_that_computes_something_else_is_noticed(bundle, value) -> None:
    rewrite(bundle / "guard.yaml", lambda c: c["backbone"]["fingerprint"].__setitem__(5, value))
    with pytest.raises(BackboneMismatch, match="this installation computes something else"):
        Guard.load(bundle, backbone=tiny_backbone())
    rewrite(
        bundle / "guard.yaml", lambda c: c["backbone"].update(fingerprint=c["backbone"]["fingerprint"][:9])
    )
    with pytest.raises(BackboneMismatch):
        Guard.load(bundle, backbone=tiny_backbone())


def test_a_rounding_of_the_library_is_no_reason(bundle) -> None:
    def nudge(content) -> None:
        content["backbone"]["fingerprint"] = [v + 0.01 for v in content["backbone"]["fingerprint"]]

    rewrite(bundle / "guard.yaml", nudge)
    Guard.load(bundle, backbone=tiny_backbone())


def test_a_bundle_is_replaced_as_a_whole(bundle) -> None:
    make_guard(seed=1, flag=2.0).save(bundle)
    loaded = Guard.load(bundle, backbone=tiny_backbone())
    assert loaded.thresholds.flag == 2.0
    assert (loaded.head.weights == random_head(tiny_backbone(), 1).weights).all()
    assert [path.name for path in bundle.parent.iterdir()] == ["guard"]


def test_nothing_but_a_bundle_is_ever_replaced(bundle, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("the only copy")
    shutil.copytree(bundle, tmp_path / "notes")
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(bundle)
    for target in (folder, tmp_path / "notes", file, link):
        with pytest.raises(GuardError):
            check_target(target)
        with pytest.raises(GuardError):
            make_guard().save(target)
    assert (folder / "chapter.txt").read_text() == "the only copy"
    assert file.read_text() == "mine"
    monkeypatch.chdir(folder)
    with pytest.raises(GuardError, match="holds other files"):
        make_guard().save(".")
    (tmp_path / "empty").mkdir()
    make_guard().save(tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "guard", "link", "notes", "thesis"]


def test_calibration_and_training_travel_with_the_guard(tmp_path) -> None:
    scores = [i / 1000 for i in range(4000)]
    found = choose_threshold(scores, [str(i) for i in range(4000)], 0.01, 1e-3, sources=["web"] * 4000)
    guard = make_guard()
    training = TrainingRecord(
        recipe="r", config={"a": [1, 2]}, exchanges={"web": {"harmful": 1, "harmless": 2}}, tokens_seen=9,
        data_sha256="0" * 64, seeds=[1, 2], notes=["read by hand"],
    )  # fmt: skip
    record = guard.record.model_copy(update={"training": training})
    guard = Guard(
        Bundle(record, guard.constitution, guard._bundle.constitution_yaml, guard.head), guard.backbone
    )
    calibrated = guard.with_calibration(found, flag_on="answer", claim=["english only"])
    loaded = calibrated.save(tmp_path / "guard")
    assert loaded.calibration == found
    assert (loaded.thresholds.flag, loaded.thresholds.flag_on) == (found.threshold, "answer")
    assert loaded.record.training == training
    assert guard.calibration is None
    assert guard.thresholds.flag == 0.5
    card = (tmp_path / "guard" / "README.md").read_text()
    for text in ("n = 4000", "web 4000", "english only", "| web | 1 | 2 |", "read by hand", "stage-magic"):
        assert text in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "lockgate"


def test_the_card_of_an_uncalibrated_guard_claims_nothing(bundle) -> None:
    card = (bundle / "README.md").read_text()
    assert "**Uncalibrated.**" in card
    for category in load_constitution("stage-magic").harmful:
        assert f"`{category.id}`" in card


def test_results_stand_in_the_card(tmp_path) -> None:
    probe = {"auroc": 0.9, "tpr_at_0.001": 0.5, "ci": [0.4, 0.6]}
    unknown = {"auroc": None, "tpr_at_0.001": None, "ci": [None, None]}
    sets = {
        "a": {"n": 7, "probe": probe, "baseline": probe},
        "b": {"n": 3, "probe": unknown, "baseline": unknown},
    }
    make_guard().save(tmp_path / "g", results={"sets": sets})
    card = (tmp_path / "g" / "README.md").read_text()
    assert "| a | 7 | 0.900 | 0.500 (0.400 to 0.600) | 0.500 |" in card
    assert "| b | 3 | - | - (- to -) | - |" in card


def test_thresholds_of_a_record_are_checked() -> None:
    record = make_guard().record
    with pytest.raises(ConfigError):
        make_guard(flag=float("nan"))
    assert GuardRecord.model_validate(record.model_dump(mode="json")) == record


@pytest.mark.parametrize("name", ["embedded", "stand-in"])
def test_the_guards_of_the_package_are_whole_and_calibrated(name: str) -> None:
    bundle = read_bundle(bundle_folder(name))
    assert is_shipped(name)
    assert bundle.record.calibration is not None
    assert bundle.record.calibration["bound"] <= bundle.record.calibration["budget"]
    assert bundle.record.cascade is not None


def test_a_folder_is_no_name_of_the_package() -> None:
    assert not is_shipped("./embedded")
    assert bundle_folder("./embedded") == Path("embedded")
