"""Feedback: what reviewers say of a guard's verdicts becomes training data and proposals for the policy."""

from lockgate.synthesis.feedback._proposal import (
    Addition,
    Proposal,
    propose_constitution,
    render_proposal,
    write_proposal,
)
from lockgate.synthesis.feedback._retraining import FeedbackRule, Retraining, apply_feedback
from lockgate.synthesis.feedback._reviews import Conflict, Feedback, Review, Verdict, read_feedback

__all__ = [
    "Addition",
    "Conflict",
    "Feedback",
    "FeedbackRule",
    "Proposal",
    "Retraining",
    "Review",
    "Verdict",
    "apply_feedback",
    "propose_constitution",
    "read_feedback",
    "render_proposal",
    "write_proposal",
]
