"""The code keeps to the rooms of `design/README.md`."""

import json
from importlib import import_module
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = house.rooms()
GROUND = ROOMS[0].name
# Files that anybody may import from as a whole: rooms, their public parts, and the ground.
PUBLIC = [m for m in house.files() if not any(part.startswith("_") for part in m.split("."))]


def test_every_file_stands_in_a_room_and_every_room_has_files() -> None:
    used = {house.room_of(module) for module in house.files()}
    assert used == {room.name for room in ROOMS}
    assert len(ROOMS) == len({room.name for room in ROOMS}) >= 18


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_imports_what_the_table_says(room) -> None:
    below = [other.name for other in ROOMS[: ROOMS.index(room)]]
    assert set(room.imports) <= set(below), "a room may import only those before it in the table"
    found = {house.room_of(i.target): i for i in house.crossing() if house.room_of(i.source) == room.name}
    found.pop(GROUND, None)
    new = [f"{name} ({found[name]})" for name in sorted(set(found) - set(room.imports))]
    assert not new, f"not in design/README.md: {room.name} imports {', '.join(new)}"
    assert not set(room.imports) - set(found), "no longer imported: take it out of design/README.md"


def test_no_circle_of_files() -> None:
    assert house.circles() == []


@pytest.mark.parametrize("package", ["lockgate", "recipes", "benchmarks"])
def test_no_private_import_across_rooms(package) -> None:
    assert house.crossing(package)
    assert [str(found) for found in house.crossing(package) if house.is_private(found)] == []


@pytest.mark.parametrize("package", ["lockgate", "recipes", "benchmarks"])
def test_what_is_imported_from_a_room_is_in_its_all(package) -> None:
    left = [
        str(found)
        for found in house.crossing(package)
        if found.name and found.target in PUBLIC and found.target != "lockgate.errors"
        if found.name not in (house.exports(found.target) or ())
    ]
    assert left == []


@pytest.mark.parametrize("module", [m for m in PUBLIC if house.files()[m].name == "__init__.py"])
def test_all_is_sorted_and_complete(module) -> None:
    listed = house.exports(module)
    assert listed is not None
    assert len(set(listed)) == len(listed)
    # Constants, classes and functions, each by the alphabet.
    assert listed == sorted(listed, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    loaded = import_module(module)
    assert [name for name in listed if not hasattr(loaded, name)] == []
    gathered = {i.name for i in house.imports_of(module, house.files()[module]) if i.name}
    # The front door and the command line have code of their own, and import for it.
    if module not in ("lockgate", "lockgate.cli"):
        assert {name for name in gathered if not name.startswith("_")} <= set(listed)


def test_what_the_measures_find() -> None:
    """The measures on files made for them: each import is seen, wherever it stands."""
    found = list(house.imports_of("recipes.made", ROOT / "tests" / "house_sample.py"))
    assert [(i.target, i.name) for i in found] == [
        ("lockgate", "load"),
        ("lockgate.guards", "Guard"),
        ("lockgate.guards._guard", None),
        ("lockgate.tables", "ScoresTable"),
        ("lockgate.tables._scores", "_hidden"),
    ]
    assert [house.is_private(i) for i in found] == [False, False, True, False, True]


def test_a_circle_is_found(monkeypatch) -> None:
    made = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "e")]
    edges = tuple(house.Import(source, 1, target, None) for source, target in made)
    monkeypatch.setattr(house, "files", lambda: dict.fromkeys("abcde"))
    monkeypatch.setattr(house, "imports", lambda: edges)
    assert house.circles() == [["a", "b", "c"], ["e"]]


def test_the_index_names_every_note() -> None:
    text = (ROOT / "design" / "README.md").read_text()
    notes = {path.name for path in (ROOT / "design").glob("*.md")} - {"README.md"}
    assert {name for name in notes if f"]({name})" not in text} == set()


@pytest.mark.slow
def test_the_record_is_what_the_package_is() -> None:
    record = json.loads(house.RECORD.read_text())
    measured = house.measure()
    assert house.without_seconds(record) == house.without_seconds(measured), house.REGENERATE
    assert record["import_closure"]["seconds_over_torch_transformers"] > 0
    assert record["import_closure"]["modules"] <= 70
    assert record["circles"] == record["private_imports_across_rooms"] == 0
