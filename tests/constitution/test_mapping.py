from pathlib import Path

import pytest

from lockgate.constitution import DataMapping, mapping_names, read_mapping
from lockgate.errors import ConstitutionError


def test_mappings_check_themselves(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    wrong = {
        "shape: round": "1: shape: input should be",
        "columns:\n  promt: x": "2: columns.promt: .*; known here: prompt, response",
        "label:\n  constant: 2": "2: label.constant",
        "label:\n  constant: 1\n  column: x": "1: label: .*one of constant, splits, sides or column",
        "label: {column: x, harmful: below}": "1: label: .*harmful needs threshold",
        "label: {column: x, otherwise: 0}": "1: label: .*otherwise needs equals",
        "label: {column: x, equals: {a: 1}, threshold: 1}": "1: label: .*not both",
        "label: {constant: 1, equals: {a: 1}}": "1: label: .*need a column",
        "categories: {a: b}": "1: file: .*categories need `constitution`",
        "unmapped: skip": "1: file: .*needs categories",
        "constitution: stage-magic\ncategories:\n  a: hate": "3: categories.a: `hate` is not a category",
        "constitution: stage-magic\ndefault_category: hate": "2: default_category: `hate`",
        "shape: auto\nshape: auto": "2: shape: appears twice",
        "- a": "1: file: ",
        "": "1: the file is empty",
    }
    for text, message in wrong.items():
        path.write_text(text)
        with pytest.raises(ConstitutionError, match=f"mapping.yaml:{message}"):
            read_mapping(path)
    path.write_text(
        "constitution: own.yaml\nlabel: {column: x, equals: {true: 0, 1: 1}}\ncategories: {a: hate}"
    )
    with pytest.raises(ConstitutionError, match=r"own\.yaml: neither a file nor a shipped constitution"):
        read_mapping(path)
    mapping = read_mapping(path, "general-harms")
    assert mapping.constitution == "general-harms"
    assert mapping.label is not None
    assert mapping.label.equals == {"true": 0, "1": 1}
    with pytest.raises(ConstitutionError, match="`hate` is not a category of stage-magic"):
        read_mapping(path, "stage-magic")
    with pytest.raises(ConstitutionError, match="no mapping for this data set, and no file"):
        read_mapping(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", mapping_names())
def test_shipped_mappings_follow_the_schema(name: str) -> None:
    mapping = read_mapping(name)
    assert mapping == DataMapping(constitution="general-harms", categories=mapping.categories)
