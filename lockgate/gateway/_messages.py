"""Checks of the `messages` of a request, field by field. Error messages never repeat a user's text."""

from collections.abc import Mapping
from typing import Any

from lockgate.exchanges import ContentFault, Message, content_text, json_type
from lockgate.gateway._errors import ApiError, invalid

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
LONGEST_NAME = 256
MAX_MESSAGES = 2_048


def parse_messages(value: object) -> tuple[Message, ...]:
    """Parse the messages of a chat request. Raises ApiError (400) that names the field."""
    if value is None:
        raise invalid("messages", "is required: a list of {role, content} objects")
    if not isinstance(value, list):
        raise invalid("messages", f"expected a list of {{role, content}} objects, found {json_type(value)}")
    if not value:
        raise invalid("messages", "the list is empty; at least one message is needed", "empty_array")
    if len(value) > MAX_MESSAGES:
        raise invalid("messages", f"expected at most {MAX_MESSAGES} messages, found {len(value)}")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise invalid(where, f"expected an object with role and content, found {json_type(value)}")
    role = value.get("role")
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role", "tool messages")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{where}.role", f"expected one of {', '.join(ROLES)}")
    if value.get("tool_calls") or value.get("function_call"):
        raise unsupported(f"{where}.tool_calls", "tool calls")
    if value.get("audio") is not None:
        raise unsupported(f"{where}.audio", "audio")
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise invalid(f"{where}.name", f"expected text, found {json_type(name)}")
    if name is not None and len(name) > LONGEST_NAME:
        raise invalid(f"{where}.name", f"is longer than {LONGEST_NAME} characters")
    return Message(role=ROLES[role], content=_content(value, role, where), name=name)


def _content(message: Mapping[str, Any], role: str, where: str) -> str:
    try:
        return content_text(message, role)
    except ContentFault as fault:
        if fault.unsupported:
            raise unsupported(f"{where}.{fault.field}", "content parts other than text") from None
        raise invalid(f"{where}.{fault.field}", fault.what) from None


def unsupported(param: str, what: str) -> ApiError:
    return invalid(param, f"{what} are not supported by this server", "unsupported_value")
