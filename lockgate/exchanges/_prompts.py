"""The prompt of an exchange, and the key by which prompts count as one."""

from lockgate.exchanges._record import Exchange
from lockgate.exchanges.shingles import text_hash


def prompt_group(exchange: Exchange) -> str:
    """Return the key of an exchange's prompt. Prompts with one key count as one prompt.

    The key is the `text_hash` of the last user message, or of all messages' text if there is no user message.
    """
    return text_hash(prompt_text(exchange))


def prompt_text(exchange: Exchange) -> str:
    """Return the last user message, or all messages' text if there is none. `prompt_group` hashes it."""
    for message in reversed(exchange.messages):
        if message.role == "user":
            return message.content
    return "\n".join(message.content for message in exchange.messages)
