"""Feedback: reviewers' verdicts become training data for a guard and proposals for its constitution."""

from lockgate.feedback._comparison import CategoryChange, GuardComparison, compare_guards
from lockgate.feedback._labels import Label, Reviewed, ReviewFile, read_reviewed
from lockgate.feedback._proposal import (
    Addition,
    Proposal,
    propose_constitution,
    render_proposal,
    write_proposal,
)
from lockgate.feedback._retraining import FEEDBACK, FeedbackRule, Retraining, apply_feedback
from lockgate.feedback._reviews import Conflict, Feedback, Review, Verdict, read_feedback
from lockgate.feedback._rule import UpdateRule, UpdateVerdict

__all__ = [
    "FEEDBACK",
    "Addition",
    "CategoryChange",
    "Conflict",
    "Feedback",
    "FeedbackRule",
    "GuardComparison",
    "Label",
    "Proposal",
    "Retraining",
    "Review",
    "ReviewFile",
    "Reviewed",
    "UpdateRule",
    "UpdateVerdict",
    "Verdict",
    "apply_feedback",
    "compare_guards",
    "propose_constitution",
    "read_feedback",
    "read_reviewed",
    "render_proposal",
    "write_proposal",
]
