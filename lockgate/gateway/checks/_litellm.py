"""`POST /beta/litellm_basic_guardrail_api`: LiteLLM's generic guardrail API, as its version 1.108 calls it.

LiteLLM shows a request's messages once, and its answer in rounds, each with all text so far. Both have the
same `litellm_call_id`. Fields that it sends beside those that are read here change nothing.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lockgate.exchanges import ContentFault, Message, content_text, json_type
from lockgate.gateway._clients import caller_of
from lockgate.gateway._errors import ApiError, invalid, json_response
from lockgate.gateway._gateway import Gateway, gateway_of
from lockgate.gateway._messages import MAX_MESSAGES, ROLES
from lockgate.gateway.checks._calls import owner_of, read_call, while_connected
from lockgate.gateway.checks._check import deadline_of
from lockgate.gateway.checks._rounds import Outcome, Rounds

# What a tool returns is not the model's, and it may try to steer the model as a user can.
AS_USER = ("tool", "function")
MAX_TEXTS = 64
UNREADABLE = "Images and audio can't be checked, so they are not let through."
UNCHECKED = "The guard has stopped this."


@dataclass(frozen=True, slots=True)
class Shown:
    """What LiteLLM shows in one call.

    Attributes:
        call: LiteLLM's id of the request; empty without one.
        messages: the conversation, in a call about a request.
        texts: the answers so far, in a call about a response.
        whole: tool calls of an answer, as text.
        unreadable: whether there is something else than text.
    """

    call: str = ""
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    unreadable: bool = False


async def litellm_guardrail(request: Request) -> Response:
    """Judge a request before LiteLLM sends it, or an answer as it comes."""
    gateway = gateway_of(request)
    shown = await read_call(request, _parse)
    if not gateway.engine.reads_given:
        raise ApiError(400, "This server has no guard that could read text.", code="no_guard")
    if shown.unreadable and stops_unreadable(gateway, request):
        return _blocked(UNREADABLE)
    return await while_connected(request, _judge(gateway, shown, request))


def stops_unreadable(gateway: Gateway, request: Request) -> bool:
    """Tell whether what can't be checked is stopped: by the mode, and in canary mode for its share."""
    return gateway.policy_for(caller_of(request)).mode_for(secrets.token_hex(16)) == "enforce"


async def _judge(gateway: Gateway, shown: Shown, request: Request) -> Response:
    rounds: Rounds = request.app.state.checks.rounds
    client, deadline = caller_of(request), deadline_of(gateway)
    call = hashlib.sha256(f"{owner_of(request)} {shown.call}".encode()).hexdigest()
    if shown.messages:
        if shown.call:
            # Before it is judged: LiteLLM may ask the model meanwhile, and show the answer at once.
            rounds.remember(call, client.name, shown.messages)
        try:
            return _answer([await rounds.judge_prompt(shown.messages, client, deadline)])
        except ApiError:
            rounds.forget(call)
            raise
    if not shown.call:
        # Nothing says to which prompt and earlier rounds these texts belong.
        texts = [text for text in (*shown.texts, *shown.whole) if text]
        return _answer(await rounds.judge_answers("", texts, client, deadline))
    if rounds.has_forgotten(call) and stops_unreadable(gateway, request):
        return _blocked(UNCHECKED)
    read = iter(await rounds.read(call, [text for text in shown.texts if text], client, deadline))
    # LiteLLM finds a choice's number by its place, also behind choices that have no text yet.
    outcomes = [next(read) if text else Outcome(None) for text in shown.texts]
    return _answer(outcomes, await rounds.judge_answers(call, shown.whole, client, deadline))


def _answer(outcomes: Sequence[Outcome], aside: Sequence[Outcome] = ()) -> Response:
    for outcome in (*outcomes, *aside):
        if outcome.stopped is not None:
            return _blocked(outcome.stopped.refusal or UNCHECKED)
    return json_response({"action": "NONE", "stream_holdback_chars": [outcome.held for outcome in outcomes]})


def _blocked(reason: str) -> Response:
    return json_response({"action": "BLOCKED", "blocked_reason": reason})


def _parse(payload: dict[str, Any]) -> Shown:
    kind = payload.get("input_type")
    if kind not in ("request", "response"):
        raise invalid("input_type", "expected request or response")
    call = payload.get("litellm_call_id")
    if call is not None and not isinstance(call, str):
        raise invalid("litellm_call_id", f"expected text, found {json_type(call)}")
    texts = _list(payload, "texts", MAX_MESSAGES if kind == "request" else MAX_TEXTS)
    if not all(isinstance(text, str) for text in texts):
        raise invalid("texts", "expected a list of texts")
    unreadable = bool(_list(payload, "images", MAX_MESSAGES))
    tool_calls = _list(payload, "tool_calls", MAX_MESSAGES if kind == "request" else MAX_TEXTS)
    if kind == "response":
        whole = tuple(filter(None, map(_tool_text, tool_calls)))
        return Shown(call or "", (), tuple(texts), whole, unreadable)
    rows = _list(payload, "structured_messages", MAX_MESSAGES)
    messages, odd = _messages(rows) if rows else (tuple(Message("user", text) for text in texts), False)
    return Shown(call or "", messages, unreadable=unreadable or odd)


def _list(payload: Mapping[str, Any], name: str, most: int) -> list[Any]:
    value = payload.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, f"expected a list, found {json_type(value)}")
    if len(value) > most:
        raise invalid(name, f"expected at most {most} entries, found {len(value)}")
    return value


def _messages(rows: Sequence[object]) -> tuple[tuple[Message, ...], bool]:
    """Return a conversation as messages, and whether it holds something else than text."""
    messages: list[Message] = []
    unreadable, after_tool = False, False
    for index, row in enumerate(rows):
        where = f"structured_messages[{index}]"
        if not isinstance(row, dict):
            raise invalid(where, f"expected an object with role and content, found {json_type(row)}")
        role = row.get("role")
        known = isinstance(role, str) and (role in ROLES or role in AS_USER)
        if not isinstance(role, str) or not known:
            raise invalid(f"{where}.role", f"expected one of {', '.join((*ROLES, *AS_USER))}")
        text, odd = _content(row, role, where)
        unreadable |= odd
        if role in AS_USER and after_tool:
            # Templates want turns that alternate, and one turn may call several tools.
            messages[-1] = Message("user", f"{messages[-1].content}\n\n{text}")
        else:
            messages.append(Message(ROLES.get(role, "user"), text))
        after_tool = role in AS_USER
    return tuple(messages), unreadable


def _content(row: dict[str, Any], role: str, where: str) -> tuple[str, bool]:
    unreadable, text = row.get("audio") is not None, ""
    parts = row.get("content")
    if isinstance(parts, list):
        readable = [part for part in parts if _is_text(part)]
        unreadable |= len(readable) < len(parts)
        row = {**row, "content": readable}
    if parts is not None or row.get("refusal") is not None:
        try:
            text = content_text(row, role)
        except ContentFault as fault:
            raise invalid(f"{where}.{fault.field}", fault.what) from None
    calls = row.get("tool_calls")
    written = map(_tool_text, calls if isinstance(calls, list) else ())
    return "\n".join(filter(None, (text, *written))), unreadable


def _is_text(part: object) -> bool:
    return not isinstance(part, dict) or part.get("type") in ("text", "input_text", "output_text", "refusal")


def _tool_text(call: object) -> str:
    """Return the name and the arguments of a tool call, or all of one that has none."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return _plain(call)
    return " ".join(_plain(function[key]) for key in ("name", "arguments") if function.get(key) is not None)


def _plain(value: object) -> str:
    """Return text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
