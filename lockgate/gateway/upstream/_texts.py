"""Reading the texts of requests, as whose they count. Error messages never repeat a user's text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lockgate.exchanges import Message, json_type
from lockgate.gateway._errors import invalid
from lockgate.gateway._messages import LONGEST_NAME, MAX_MESSAGES
from lockgate.gateway.upstream._options import Media

# Parts of a message that hold no text. The guard can't read them.
MEDIA_PARTS = frozenset(
    {
        *("image_url", "input_audio", "audio", "file", "video_url", "image", "document", "input_image"),
        *("input_file", "computer_screenshot", "refusal_audio", "video", "input_video"),
    }
)
TEXT_PARTS = frozenset(
    {
        *("text", "input_text", "output_text", "refusal", "thinking", "reasoning", "summary_text"),
        "reasoning_text",
    }
)

# Fields of a request that ask for an answer's token ids. Ids are numbers, which nobody scores, and vLLM sends
# those of text that it holds back itself: the answer would leave before the guard has read it.
_IDS = ("token ids would leave before their text is read", (None, False))
IDS_REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "return_token_ids": _IDS,
    "return_tokens_as_token_ids": _IDS,
}

# Fields that say which form an answer must have. Their words, such as a description, reach the model.
FORMS = (
    *("response_format", "format", "text", "output_format", "output_config", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    *("grammar", "json_schema", "regex", "ebnf"),
)
# Arguments of the model's own chat template. They reach the model wherever the template wants them.
TEMPLATE = "chat_template_kwargs"
_TEMPLATE_REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    **dict.fromkeys(
        ("chat_template", "messages", "conversation", "tools"),
        ("the model would read another conversation than the guard", (None, [])),
    ),
    "documents": ("the guard does not read them here; put their text into a message", (None, [])),
}

# Fields of a form that name a kind, and how long such a name is at most.
KINDS = ("type", "verbosity", "effort")
LONGEST_KIND = 32


class TextReader:
    """Collects the texts of a request, and counts the media among them.

    Args:
        media: `refuse` answers media with a 400, `pass` counts them in `media`.
    """

    def __init__(self, media: Media) -> None:
        self._policy = media
        self.media = 0

    def content(self, value: object, where: str) -> str:
        """Return the text of a message's content: text, or a list of parts. None is the empty text."""
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise invalid(where, f"expected text or a list of parts, found {json_type(value)}")
        return "".join(self.part(part, f"{where}[{index}]") for index, part in enumerate(value))

    def part(self, part: object, where: str) -> str:
        """Return the text of one part of a content."""
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            raise invalid(where, f"expected an object with a type, found {json_type(part)}")
        kind = part.get("type")
        if not isinstance(kind, str):
            raise invalid(f"{where}.type", f"expected text, found {json_type(kind)}")
        if kind in TEXT_PARTS:
            field = kind if kind in ("refusal", "thinking") and kind in part else "text"
            text = part.get(field)
            if not isinstance(text, str):
                raise invalid(f"{where}.{field}", f"expected text, found {json_type(text)}")
            return text
        if kind in MEDIA_PARTS:
            self.skip_media(f"{where}.type")
            return ""
        raise invalid(f"{where}.type", "is a part that the guard can't read", "unsupported_value")

    def skip_media(self, where: str) -> None:
        """Note media that the guard can't read. Raises ApiError (400) if they are refused."""
        if self._policy == "refuse":
            raise invalid(
                where,
                "images, audio and files are refused, because the guard reads text only. The server's "
                "setting `media` can let them pass unread",
                "unsupported_value",
            )
        self.media += 1


def whole_number(payload: Mapping[str, Any], name: str, low: int, high: int | None = None) -> int | None:
    """Return a whole number of the payload, or None. Raises ApiError (400)."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"expected a whole number, found {json_type(value)}")
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise invalid(name, f"expected a whole number {wanted}")
    return value


def flag(payload: Mapping[str, Any], name: str) -> bool:
    """Return a boolean of the payload; False if it is not there. Raises ApiError (400)."""
    value = payload.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(name, f"expected true or false, found {json_type(value)}")
    return value


def listed(payload: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list of the payload; empty if it is not there. Raises ApiError (400)."""
    value = payload.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, f"expected a list, found {json_type(value)}")
    if len(value) > MAX_MESSAGES:
        raise invalid(name, f"expected at most {MAX_MESSAGES} items, found {len(value)}")
    return value


def refuse_fields(
    payload: Mapping[str, Any], refused: Mapping[str, tuple[str, tuple[object, ...]]], where: str = ""
) -> None:
    """Refuse fields that would let text pass unread, unless they hold a value that means "not used".

    Args:
        where: what stands before a field's name in the error.
    """
    for name, (why, unused) in refused.items():
        if name in payload and not any(payload[name] is value or payload[name] == value for value in unused):
            raise invalid(where + name, why, "unsupported_value")


def tools_as_text(tools: Sequence[Any]) -> str:
    """Return the tools of a request as text. They are the operator's words."""
    return "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)


def with_setup(
    messages: Sequence[Message], payload: Mapping[str, Any], tools: Sequence[Any] = ()
) -> tuple[Message, ...]:
    """Add to the system's text what else reaches the model: tools, arguments of its chat template, and the
    form that its answer must have. Raises ApiError (400).
    """
    parts = [f"Tools:\n{tools_as_text(tools)}"] if tools else []
    forms = {name: payload[name] for name in FORMS if name in payload and _tells(payload[name])}
    if forms:
        parts.append(f"Form of the answer:\n{json.dumps(forms, ensure_ascii=False)}")
    if (arguments := payload.get(TEMPLATE)) is not None and _says_more(_checked(arguments)):
        parts.append(f"Arguments of the chat template:\n{json.dumps(arguments, ensure_ascii=False)}")
    if not parts:
        return tuple(messages)
    told = "\n\n".join(parts)
    if messages and messages[0].role == "system":
        first = Message("system", f"{messages[0].content}\n\n{told}" if messages[0].content else told)
        return (first, *messages[1:])
    return (Message("system", told), *messages)


def _checked(arguments: object) -> object:
    """Refuse arguments of a chat template that stand for the conversation itself."""
    if isinstance(arguments, dict):
        refuse_fields(arguments, _TEMPLATE_REFUSED, f"{TEMPLATE}.")
    return arguments


def _says_more(arguments: object) -> bool:
    """Tell whether the texts of a template's arguments are more than names of kinds (`high`)."""
    return sum(map(len, _strings(arguments))) > LONGEST_KIND


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (name for name in value if len(name) > LONGEST_KIND)
        yield from (text for item in value.values() for text in _strings(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in _strings(item))


def _tells(form: object) -> bool:
    """Tell whether a form holds words of its author, and not only the name of a kind (`json_object`)."""
    if isinstance(form, dict):
        return not all(_is_kind(name, value) for name, value in form.items())
    return bool(form) and form != "json"


def _is_kind(name: str, value: object) -> bool:
    if name == "format" and isinstance(value, dict):
        return not _tells(value)
    return value is None or (name in KINDS and isinstance(value, str) and len(value) <= LONGEST_KIND)


def calls_of(value: object, where: str) -> tuple[dict[str, Any], ...]:
    """Check the tool calls of an assistant's message, in the form of chat completions."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid(where, f"expected a list of tool calls, found {json_type(value)}")
    for index, call in enumerate(value):
        if not isinstance(call, dict):
            raise invalid(f"{where}[{index}]", f"expected an object, found {json_type(call)}")
    return tuple(value)


def name_of(message: Mapping[str, Any], where: str) -> str | None:
    """Return the name of a message's speaker. Raises ApiError (400)."""
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise invalid(f"{where}.name", f"expected text, found {json_type(name)}")
    if name is not None and len(name) > LONGEST_NAME:
        raise invalid(f"{where}.name", f"is longer than {LONGEST_NAME} characters")
    return name
