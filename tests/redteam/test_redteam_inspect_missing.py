"""Without Inspect, its tasks say which extra brings it."""

import sys
from importlib import import_module

import pytest

from lockgate.errors import MissingExtra

MODULE = "lockgate.redteam.inspect_tasks"


def test_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(MissingExtra, match=r'pip install "lockgate\[inspect\]"'):
        import_module(MODULE)
    assert MODULE not in sys.modules
