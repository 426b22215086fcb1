"""Databases that keep what a server must not lose: SQLite on one machine, PostgreSQL for several servers."""

from lockgate.databases._database import Database
from lockgate.databases._migrate import migrate, take_turn
from lockgate.databases._place import Place
from lockgate.databases._schema import Schema

__all__ = ["Database", "Place", "Schema", "migrate", "take_turn"]
