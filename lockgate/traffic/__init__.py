"""Recorded traffic under a guard: scoring it, setting thresholds on it, mining it, choosing what to label."""

from lockgate.traffic._calibrate import calibrate
from lockgate.traffic._changes import write_changes
from lockgate.traffic._checks import read_exclusions
from lockgate.traffic._evidence import Evidence, describe_traffic, gather_evidence
from lockgate.traffic._files import score_file, score_row
from lockgate.traffic._judge_report import Arrangement, Correlation, JudgeReport
from lockgate.traffic._judged import check_judged, judge_exchanges
from lockgate.traffic._logged import LoggedTraffic, read_logged
from lockgate.traffic._memory import MemoryPlan, calibrate_memory, choose_memory, exchanges_of
from lockgate.traffic._mine import mine
from lockgate.traffic._mined import MINED, Mined, add_mined, manifest_of, read_mined
from lockgate.traffic._plan import CalibrationPlan, MiningPlan, ScreenPlan, SecondStagePlan, SelectionPlan
from lockgate.traffic._pool import sift_pool
from lockgate.traffic._recall import Recall
from lockgate.traffic._recorded import RecordedDecision, RecordedScores, kind_of, read_decisions
from lockgate.traffic._replay import replay
from lockgate.traffic._replay_log import replay_decisions
from lockgate.traffic._replayed import Change, Counts, Replay, ReplayPlan, ThresholdRow
from lockgate.traffic._score_columns import ScoreColumns, read_score_columns
from lockgate.traffic._score_threshold import ScoreThreshold
from lockgate.traffic._screen import Screened, screen_exchanges, screen_threshold
from lockgate.traffic._select import SCORED, select_exchanges, with_score
from lockgate.traffic._slices import Slice, minimum_coverage, slices
from lockgate.traffic._staging import StagedScores, score_once, score_stages
from lockgate.traffic._transfer import Shift, Transfer, compare_precisions, score_traffic

__all__ = [
    "MINED",
    "SCORED",
    "Arrangement",
    "CalibrationPlan",
    "Change",
    "Correlation",
    "Counts",
    "Evidence",
    "JudgeReport",
    "LoggedTraffic",
    "MemoryPlan",
    "Mined",
    "MiningPlan",
    "Recall",
    "RecordedDecision",
    "RecordedScores",
    "Replay",
    "ReplayPlan",
    "ScoreColumns",
    "ScoreThreshold",
    "ScreenPlan",
    "Screened",
    "SecondStagePlan",
    "SelectionPlan",
    "Shift",
    "Slice",
    "StagedScores",
    "ThresholdRow",
    "Transfer",
    "add_mined",
    "calibrate",
    "calibrate_memory",
    "check_judged",
    "choose_memory",
    "compare_precisions",
    "describe_traffic",
    "exchanges_of",
    "gather_evidence",
    "judge_exchanges",
    "kind_of",
    "manifest_of",
    "mine",
    "minimum_coverage",
    "read_decisions",
    "read_exclusions",
    "read_logged",
    "read_mined",
    "read_score_columns",
    "replay",
    "replay_decisions",
    "score_file",
    "score_once",
    "score_row",
    "score_stages",
    "score_traffic",
    "screen_exchanges",
    "screen_threshold",
    "select_exchanges",
    "sift_pool",
    "slices",
    "with_score",
    "write_changes",
]
