"""Tables of scores: one row an exchange, one line a block, and no text."""

from lockgate.tables._scores import SCORES_SCHEMA, ScoresTable
from lockgate.tables._traces import TRACE_SCHEMA, BlockTrace

__all__ = [
    "SCORES_SCHEMA",
    "TRACE_SCHEMA",
    "BlockTrace",
    "ScoresTable",
]
