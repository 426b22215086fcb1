"""What the dashboard of a server is told about the guard that it serves."""

import shutil
from inspect import signature
from types import SimpleNamespace

import pytest
from parts import make_guard

from lockgate.cli._build import build
from lockgate.cli._serve_dashboard import _LISTS, _VALUES, GuardPlaces, _Served, guard_places
from lockgate.cli._serve_settings import Loaded
from lockgate.errors import ConfigError
from lockgate.gateway._guarding import describe_guard
from lockgate.gateway.config import BuildConfig, apply_config, read_config
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


def test_builds_get_what_the_file_says_and_no_more(tmp_path):
    make_guard().save(tmp_path / "guards" / "first")
    GuardLink(tmp_path / "current").promote(tmp_path / "guards" / "first")
    file, model = tmp_path / "lockgate.yaml", tmp_path / "model"
    text = (
        "guard: current\noperations: {path: o.db}\ndashboard:\n  guards: guards\n  build:\n"
        "    constitution: policy.yaml\n    work: builds\n    plan: plan.yaml\n"
        "    benign: [a.jsonl, b.jsonl]\n    generator: http://127.0.0.1:9/v1\n"
        "    model: writer\n    key_env: WRITER_KEY\n    epochs: 3\n"
        "    benign_share: 0.1\n"
    )
    for name in ("plan.yaml", "b.jsonl", "a.jsonl", "policy.yaml"):
        with pytest.raises(ConfigError, match=r"dashboard\.build\.\w+: .*: no such file"):
            guard_places(loaded_from(file, text), str(model))
        (tmp_path / name).write_text("")
    found = guard_places(loaded_from(file, text), str(model))
    assert found.work == tmp_path / "builds"
    assert found.arguments == (
        str(tmp_path / "policy.yaml"),
        *("--benign", str(tmp_path / "a.jsonl"), "--benign", str(tmp_path / "b.jsonl")),
        *("--plan", str(tmp_path / "plan.yaml"), "--generator", "http://127.0.0.1:9/v1"),
        *("--backbone", str(model), "--model", "writer", "--key-env", "WRITER_KEY"),
        *("--device", "auto", "--dtype", "auto", "--benign-share", "0.1", "--epochs", "3"),
    )
    local = text.replace("http://127.0.0.1:9/v1", "guards")
    assert str(tmp_path / "guards") in guard_places(loaded_from(file, local), "embedded").arguments
    for wrong in ("out: /etc", "epochs: 0", "epochs: two", "accept: true", "budget: 5"):
        with pytest.raises(ConfigError, match=r"dashboard\.build"):
            loaded_from(file, text.replace("epochs: 3", wrong))


def test_each_value_of_a_build_is_an_option_of_the_command():
    """A field that was renamed on one side would fail only when somebody starts a build."""
    options = signature(build).parameters
    fields = set(BuildConfig.model_fields)
    assert {*_LISTS, *_VALUES, "constitution", "plan", "generator", "work"} == fields
    assert fields <= set(options)
