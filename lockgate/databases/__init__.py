"""Databases that keep what a server must not lose: SQLite on one machine, PostgreSQL for several servers."""

from lockgate.databases._backup import Backup, back_up
from lockgate.databases._database import Database
from lockgate.databases._migrate import migrate, take_turn
from lockgate.databases._place import Place
from lockgate.databases._schema import Schema

__all__ = ["Backup", "Database", "Place", "Schema", "back_up", "migrate", "take_turn"]
