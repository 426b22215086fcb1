"""Recorded traffic under a guard: scoring it into tables, and setting thresholds on it."""

from lockgate.traffic._calibrate import calibrate
from lockgate.traffic._checks import read_exclusions
from lockgate.traffic._evidence import Evidence, describe_traffic, gather_evidence
from lockgate.traffic._files import score_file, score_row
from lockgate.traffic._plan import CalibrationPlan, SecondStagePlan
from lockgate.traffic._staging import StagedScores, score_once, score_stages
from lockgate.traffic._transfer import Shift, Transfer, compare_precisions, score_traffic

__all__ = [
    "CalibrationPlan",
    "Evidence",
    "SecondStagePlan",
    "Shift",
    "StagedScores",
    "Transfer",
    "calibrate",
    "compare_precisions",
    "describe_traffic",
    "gather_evidence",
    "read_exclusions",
    "score_file",
    "score_once",
    "score_row",
    "score_stages",
    "score_traffic",
]
