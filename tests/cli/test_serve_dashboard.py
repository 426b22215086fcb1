"""What the dashboard of a server is told about the guard that it serves."""

import shutil
from types import SimpleNamespace

import pytest
from parts import make_guard

from lockgate.cli._serve_dashboard import GuardPlaces, _Served, guard_places
from lockgate.cli._serve_settings import Loaded
from lockgate.errors import ConfigError
from lockgate.gateway._guarding import describe_guard
from lockgate.gateway.config import apply_config, read_config
from lockgate.rollout import GuardLink


def test_another_guard_that_takes_over_is_the_one_that_is_shown(tmp_path):
    gateway = SimpleNamespace(about_guard=None, guard_folder=None)
    served = _Served(gateway)
    assert served() is None
    for name, flag in (("first", 1.0), ("second", 2.0)):
        guard = make_guard(flag=flag).save(tmp_path / name)
        gateway.about_guard, gateway.guard_folder = describe_guard(guard, name), guard.path
        found = served()
        assert (found.name, found.sha256) == (name, guard.sha256)
        assert found.record.thresholds.flag == flag
        assert served() is found


def loaded_from(path, text):
    path.write_text(text)
    return Loaded(path, apply_config(read_config(path), path))


TEXT = "guard: {}\noperations: {{path: o.db}}\ndashboard: {{guards: guards}}\n"


def test_where_guards_are_is_what_the_file_says(tmp_path):
    make_guard().save(tmp_path / "guards" / "first")
    GuardLink(tmp_path / "guards" / "current").promote(tmp_path / "guards" / "first")
    file = tmp_path / "lockgate.yaml"
    found = guard_places(loaded_from(file, TEXT.format("guards/current")), "embedded")
    assert found == GuardPlaces(tmp_path / "guards", tmp_path / "guards" / "current")
    assert guard_places(None, "embedded") is None
    assert guard_places(loaded_from(file, "operations: {path: o.db}\n"), "embedded") is None
    for guard in ("guards/first", "guards/gone", "embedded"):
        with pytest.raises(ConfigError, match=f"{file}: dashboard: .* must name a link"):
            guard_places(loaded_from(file, TEXT.format(guard)), "embedded")
    GuardLink(tmp_path / "link").promote(tmp_path / "guards" / "first")
    shutil.move(tmp_path / "guards", tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"dashboard\.guards: .*guards: No such file"):
        guard_places(loaded_from(file, TEXT.format("link")), "embedded")
    with pytest.raises(ConfigError, match="dashboard: needs `operations`"):
        loaded_from(file, "dashboard: {guards: guards}\n")
    with pytest.raises(ConfigError, match=r"dashboard\.gards: is not a known key"):
        loaded_from(file, "operations: {path: o.db}\ndashboard: {guards: guards, gards: x}\n")
