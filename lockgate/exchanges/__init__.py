"""Exchanges: the record every classifier reads, its files, splits and duplicates."""

from lockgate.exchanges._duplicates import (
    find_duplicates,
    normalise_text,
    prompt_group,
    shingle_jaccard,
    text_hash,
)
from lockgate.exchanges._files import open_atomic
from lockgate.exchanges._groups import join_groups
from lockgate.exchanges._read import InvalidCounter, read_exchanges
from lockgate.exchanges._record import ROLES, Exchange, Message, exchange_from_dict, messages_from_list
from lockgate.exchanges._splits import crossed_split, grouped_split
from lockgate.exchanges._write import write_exchanges

__all__ = [
    "ROLES",
    "Exchange",
    "InvalidCounter",
    "Message",
    "crossed_split",
    "exchange_from_dict",
    "find_duplicates",
    "grouped_split",
    "join_groups",
    "messages_from_list",
    "normalise_text",
    "open_atomic",
    "prompt_group",
    "read_exchanges",
    "shingle_jaccard",
    "text_hash",
    "write_exchanges",
]
