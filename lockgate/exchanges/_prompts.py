"""What counts as one prompt."""

from lockgate.exchanges._record import Exchange
from lockgate.exchanges.shingles import text_hash


def prompt_group(exchange: Exchange) -> str:
    """`text_hash` of the last user message, the unit by which prompts count as distinct.

    Without a user message: of all messages' text.
    """
    return text_hash(prompt_text(exchange))


def prompt_text(exchange: Exchange) -> str:
    """What `prompt_group` hashes: the last user message, without one all messages' text."""
    for message in reversed(exchange.messages):
        if message.role == "user":
            return message.content
    return "\n".join(message.content for message in exchange.messages)
