"""Exchanges: the record every classifier reads, its files, splits and duplicates."""

from lockgate.exchanges._files import open_atomic
from lockgate.exchanges._read import InvalidCounter, read_exchanges
from lockgate.exchanges._record import ROLES, Exchange, Message, exchange_from_dict, messages_from_list
from lockgate.exchanges._write import write_exchanges

__all__ = [
    "ROLES",
    "Exchange",
    "InvalidCounter",
    "Message",
    "exchange_from_dict",
    "messages_from_list",
    "open_atomic",
    "read_exchanges",
    "write_exchanges",
]
