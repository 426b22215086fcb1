# ruff: noqa
"""Imports in all possible places, for `test_rooms.py`. Nothing runs this file."""

import json
from typing import TYPE_CHECKING

from lockgate import load

if TYPE_CHECKING:
    from lockgate.guards import Guard


def late():
    from lockgate.guards import _guard

    class Inner:
        def later(self):
            from lockgate.tables import ScoresTable
            from lockgate.tables._scores import _hidden
