"""What the dashboard of a server is told about the guard that it serves."""

from types import SimpleNamespace

from parts import make_guard

from lockgate.cli._serve_dashboard import _Served
from lockgate.gateway._guarding import describe_guard


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
