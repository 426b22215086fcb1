"""Recorded traffic under a guard: scored into tables, and what its scores make of the thresholds."""

from lockgate.traffic._files import score_file, score_row
from lockgate.traffic._staging import StagedScores, score_once, score_stages

__all__ = [
    "StagedScores",
    "score_file",
    "score_once",
    "score_row",
    "score_stages",
]
