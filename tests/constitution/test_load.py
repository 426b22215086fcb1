from pathlib import Path

import pytest
from pydantic import ValidationError

import lockgate.constitution
from lockgate.constitution import (
    BUCKETS,
    Constitution,
    constitution_path,
    dump_constitution,
    load_constitution,
    load_mapping,
    mapping_names,
    shipped_names,
)
from lockgate.errors import ConstitutionError


def test_exports_are_sorted_and_there() -> None:
    names = lockgate.constitution.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(lockgate.constitution, name) for name in names)


def test_what_is_shipped() -> None:
    assert shipped_names() == ["general-harms", "stage-magic"]
    general = load_constitution("general-harms")
    assert len(general.harmful) == 13
    assert list(general.buckets) == list(BUCKETS)
    assert all(general.buckets.values())
    assert general.category_ids == [category.id for category in general.harmful]


@pytest.mark.parametrize("name", shipped_names())
def test_dumping_and_loading_keep_content_and_hash(tmp_path: Path, name: str) -> None:
    constitution = load_constitution(name)
    path = tmp_path / "constitution.yaml"
    path.write_text("# a comment\n" + dump_constitution(constitution), encoding="utf-8")
    again = load_constitution(path)
    assert again == constitution
    assert again.sha256 == constitution.sha256
    assert len(again.sha256) == 64


def test_the_hash_follows_the_content() -> None:
    constitution = load_constitution("stage-magic")
    other = Constitution.model_validate({**constitution.model_dump(), "version": "1.0.1"})
    assert other.sha256 != constitution.sha256


def test_errors_name_file_line_and_how_many_more(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    text = constitution_path("stage-magic").read_text(encoding="utf-8")
    path.write_text(text.replace('version: "1.0.0"', "version: 1").replace("severity: high", "severity: x"))
    with pytest.raises(
        ConstitutionError, match=rf"^{path}:5: version: .*; 2 more: `lockgate constitution check"
    ):
        load_constitution(path)


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="general-harms, stage-magic"):
        load_constitution("general")
    with pytest.raises(ConstitutionError, match="neither"):
        load_constitution(tmp_path)
    with pytest.raises(ConstitutionError, match="advbench: no mapping"):
        load_mapping("advbench")


def test_code_can_not_build_what_a_file_may_not_hold() -> None:
    content = load_constitution("stage-magic").model_dump()
    for change in (
        {"harmful": []},
        {"harmful": [content["harmful"][0]] * 2},
        {"harmless": {}},
        {"unknown": 1},
    ):
        with pytest.raises(ValidationError):
            Constitution.model_validate({**content, **change})


@pytest.mark.parametrize("name", mapping_names())
def test_mappings_lead_to_categories(name: str) -> None:
    ids = {category.id for category in load_constitution("general-harms").categories}
    mapping = load_mapping(name)
    assert mapping
    assert set(mapping.values()) <= ids
    assert all(isinstance(category, str) for category in mapping)


def test_harmful_questions_map_to_most_of_the_harmful_half() -> None:
    reached = set(load_mapping("catqa_harmfulqa").values())
    assert reached == set(load_constitution("general-harms").category_ids)
