"""Exchanges: the record every classifier reads, its files, splits, filters, duplicates and leaks."""

from lockgate.exchanges._answers import AnswerFault, content_stems, find_off_topic, find_refusal
from lockgate.exchanges._content import ContentFault, content_text
from lockgate.exchanges._decontaminate import EvaluationIndex, Leak
from lockgate.exchanges._duplicates import (
    DOCUMENT_MINHASH,
    MinHash,
    find_duplicates,
    prompt_group,
    prompt_text,
    shingle_jaccard,
)
from lockgate.exchanges._groups import join_groups
from lockgate.exchanges._names import json_type
from lockgate.exchanges._prints import PromptMatch, PromptPrints
from lockgate.exchanges._quality import (
    DOCUMENT_RULES,
    QUALITY_RULES,
    REPETITION_RULES,
    TextFault,
    TextRule,
    find_faults,
    leave_out,
    measure_text,
)
from lockgate.exchanges._read import InvalidCounter, json_records, read_exchanges
from lockgate.exchanges._record import (
    ROLES,
    Exchange,
    Message,
    exchange_from_dict,
    messages_from_list,
)
from lockgate.exchanges._shingles import normalise_text, text_hash
from lockgate.exchanges._splits import crossed_split, grouped_split
from lockgate.exchanges._write import write_exchanges

__all__ = [
    "DOCUMENT_MINHASH",
    "DOCUMENT_RULES",
    "QUALITY_RULES",
    "REPETITION_RULES",
    "ROLES",
    "AnswerFault",
    "ContentFault",
    "EvaluationIndex",
    "Exchange",
    "InvalidCounter",
    "Leak",
    "Message",
    "MinHash",
    "PromptMatch",
    "PromptPrints",
    "TextFault",
    "TextRule",
    "content_stems",
    "content_text",
    "crossed_split",
    "exchange_from_dict",
    "find_duplicates",
    "find_faults",
    "find_off_topic",
    "find_refusal",
    "grouped_split",
    "join_groups",
    "json_records",
    "json_type",
    "leave_out",
    "measure_text",
    "messages_from_list",
    "normalise_text",
    "prompt_group",
    "prompt_text",
    "read_exchanges",
    "shingle_jaccard",
    "text_hash",
    "write_exchanges",
]
