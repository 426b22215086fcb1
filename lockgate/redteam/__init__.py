"""The red team: attacks on guards, graded by a rubric, as campaigns that can be repeated and compared."""

from lockgate.redteam._attempts import Attack, Attempt, Play, Reply, Seen
from lockgate.redteam._campaign import Campaign, Variant
from lockgate.redteam._cases import (
    Case,
    Replayed,
    add_cases,
    breaks_in,
    read_cases,
    replay,
    reviews_in,
    write_reviews,
)
from lockgate.redteam._gate import FamilyChange, compare_campaigns, read_result
from lockgate.redteam._grades import Grade, Grader, Rubric, RubricGrader
from lockgate.redteam._lab import ATTEMPTS, RESULT, run_campaign
from lockgate.redteam._metrics import capability_tax, poisson_interval, summarise
from lockgate.redteam._queries import Query, QuerySet, Topic, Twin, load_queries, query_sets
from lockgate.redteam._report import render_report, write_report
from lockgate.redteam._run import Row, Runner
from lockgate.redteam._targets import Guarded, Obedient, Shot, Target, Written

__all__ = [
    "ATTEMPTS",
    "RESULT",
    "Attack",
    "Attempt",
    "Campaign",
    "Case",
    "FamilyChange",
    "Grade",
    "Grader",
    "Guarded",
    "Obedient",
    "Play",
    "Query",
    "QuerySet",
    "Replayed",
    "Reply",
    "Row",
    "Rubric",
    "RubricGrader",
    "Runner",
    "Seen",
    "Shot",
    "Target",
    "Topic",
    "Twin",
    "Variant",
    "Written",
    "add_cases",
    "breaks_in",
    "capability_tax",
    "compare_campaigns",
    "load_queries",
    "poisson_interval",
    "query_sets",
    "read_cases",
    "read_result",
    "render_report",
    "replay",
    "reviews_in",
    "run_campaign",
    "summarise",
    "write_report",
    "write_reviews",
]
