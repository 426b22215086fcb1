"""Curation: duplicates, leaks, text quality, refusals and splits of exchanges."""

from lockgate.curation._answers import AnswerFault, content_stems, find_off_topic, find_refusal
from lockgate.curation._decontaminate import EvaluationIndex, Leak
from lockgate.curation._duplicates import DOCUMENT_MINHASH, MinHash, find_duplicates, shingle_jaccard
from lockgate.curation._groups import join_groups
from lockgate.curation._quality import (
    DOCUMENT_RULES,
    QUALITY_RULES,
    REPETITION_RULES,
    TextFault,
    TextRule,
    find_faults,
    leave_out,
    measure_text,
)
from lockgate.curation._splits import crossed_split, grouped_split

__all__ = [
    "DOCUMENT_MINHASH",
    "DOCUMENT_RULES",
    "QUALITY_RULES",
    "REPETITION_RULES",
    "AnswerFault",
    "EvaluationIndex",
    "Leak",
    "MinHash",
    "TextFault",
    "TextRule",
    "content_stems",
    "crossed_split",
    "find_duplicates",
    "find_faults",
    "find_off_topic",
    "find_refusal",
    "grouped_split",
    "join_groups",
    "leave_out",
    "measure_text",
    "shingle_jaccard",
]
