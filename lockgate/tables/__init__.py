"""Scores tables (one row for each exchange) and block traces (one line for each block). They hold no text."""

from lockgate.tables._scores import SCORES_SCHEMA, ScoresTable
from lockgate.tables._traces import TRACE_SCHEMA, BlockTrace

__all__ = [
    "SCORES_SCHEMA",
    "TRACE_SCHEMA",
    "BlockTrace",
    "ScoresTable",
]
