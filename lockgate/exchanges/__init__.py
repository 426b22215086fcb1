"""Exchanges: the record that every classifier reads, its files, and fingerprints of prompts."""

from lockgate.exchanges._fields import ContentFault, content_text, json_type, shown_name
from lockgate.exchanges._files import suffix_of
from lockgate.exchanges._prints import PromptMatch, PromptPrints, prompt_group, prompt_text
from lockgate.exchanges._read import InvalidCounter, json_records, read_exchanges
from lockgate.exchanges._record import (
    ROLES,
    Exchange,
    Message,
    exchange_from_dict,
    messages_from_list,
)
from lockgate.exchanges._write import write_exchanges
from lockgate.exchanges.shingles import normalise_text, text_hash

__all__ = [
    "ROLES",
    "ContentFault",
    "Exchange",
    "InvalidCounter",
    "Message",
    "PromptMatch",
    "PromptPrints",
    "content_text",
    "exchange_from_dict",
    "json_records",
    "json_type",
    "messages_from_list",
    "normalise_text",
    "prompt_group",
    "prompt_text",
    "read_exchanges",
    "shown_name",
    "suffix_of",
    "text_hash",
    "write_exchanges",
]
