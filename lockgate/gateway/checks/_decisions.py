"""`POST /v1/decisions`: the guard for those who write answers elsewhere and guard them over HTTP.

A call with `messages` alone judges a whole exchange. With `open` it opens a check. Further calls with its
`id` bring the answer's text, and learn how much of it is cleared.
"""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lockgate.exchanges import Message, json_type
from lockgate.gateway._clients import caller_of
from lockgate.gateway._errors import ApiError, invalid, json_response
from lockgate.gateway._gateway import Gateway, gateway_of
from lockgate.gateway._messages import parse_messages
from lockgate.gateway.checks._calls import owner_of, read_call, while_connected
from lockgate.gateway.checks._check import deadline_of, describe, judge, new_check
from lockgate.gateway.checks._streams import OpenCheck, OpenChecks

FIELDS = ("messages", "open", "id", "text", "end", "model")
LONGEST_ID = 256
# A call waits until its text is read, so a longer piece would only time out.
LONGEST_TEXT = 100_000


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call: `messages`, or the `name` of an open check."""

    messages: tuple[Message, ...] = ()
    stays_open: bool = False
    name: str = ""
    text: str = ""
    end: bool = False


async def decisions(request: Request) -> Response:
    """Judge a whole exchange, open a check, or go on with one."""
    gateway = gateway_of(request)
    checks: OpenChecks = request.app.state.checks.open
    call = await read_call(request, _parse)
    if call.name:
        one = checks.find(call.name, owner_of(request))
        return _answer(one, await _go_on(gateway, checks, one, call, gateway.mode_for(caller_of(request))))
    if call.stays_open:
        return await while_connected(request, _open(gateway, checks, call, request))
    prompt, answer = _split(call.messages)
    check = await while_connected(
        request,
        judge(
            gateway,
            prompt,
            answer,
            caller_of(request),
            deadline_of(gateway),
            follow=lambda job: gateway.follow(job, request),
        ),
    )
    return json_response(
        {"id": check.id, "object": "decision", **describe(check, gateway.mode_for(caller_of(request)))}
    )


async def _open(gateway: Gateway, checks: OpenChecks, call: Call, request: Request) -> Response:
    owner, deadline = owner_of(request), deadline_of(gateway)
    check, job = await new_check(gateway, call.messages, caller_of(request))
    gateway.follow(job, request)
    checks.require_room(owner)
    check.submit(job)
    one = checks.add(owner, check)
    with checks.call(one):
        try:
            await check.until_begun(deadline)
        except BaseException:  # the client never learns the id of this check
            check.cancel()
            raise
    return _answer(one, describe(check, gateway.mode_for(caller_of(request))))


async def _go_on(
    gateway: Gateway, checks: OpenChecks, one: OpenCheck, call: Call, mode: str
) -> dict[str, Any]:
    deadline = deadline_of(gateway)
    with checks.call(one) as check:
        if check.finished is None:
            if call.text:
                check.give(call.text)
            if call.end:
                check.end()
                await check.until_finished(deadline)
            else:
                await check.until_read(deadline)
        elif check.finished.decision in ("pass", "cancelled"):
            raise ApiError(409, "This check has ended. Open a new one.", param="id", code="check_ended")
        return describe(check, mode)


def _answer(one: OpenCheck, found: dict[str, Any]) -> Response:
    return json_response({"id": one.id, "object": "decision", **found})


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """Split an exchange into the prompt and the answer. Without an answer the prompt is judged alone."""
    if messages[-1].role != "assistant":
        return messages, ""
    if len(messages) == 1:
        raise invalid("messages", "an answer needs a message before it")
    return messages[:-1], messages[-1].content


def _parse(payload: dict[str, Any]) -> Call:
    if not set(payload) <= set(FIELDS):
        known = ", ".join(FIELDS)
        raise ApiError(400, f"A field of the body is not known. Known are {known}.", code="unknown_field")
    if (name := payload.get("id")) is not None:
        if payload.get("messages") is not None or payload.get("open") is not None:
            raise invalid("id", "an open check has its messages already; leave out messages and open")
        return Call(
            name=_text(name, "id", LONGEST_ID) or "-", text=_given(payload), end=_flag(payload, "end")
        )
    for field in ("text", "end"):
        if payload.get(field) is not None:
            raise invalid(field, "needs the id of an open check")
    messages, stays_open = parse_messages(payload.get("messages")), _flag(payload, "open")
    if stays_open and messages[-1].role == "assistant":
        raise invalid("messages", "the answer of an open check comes as text, after the messages")
    return Call(messages=messages, stays_open=stays_open)


def _given(payload: dict[str, Any]) -> str:
    given = payload.get("text")
    return "" if given is None else _text(given, "text", LONGEST_TEXT)


def _text(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str):
        raise invalid(name, f"expected text, found {json_type(value)}")
    if len(value) > longest:
        raise invalid(name, f"is longer than {longest} characters; send it in several calls")
    return value


def _flag(payload: dict[str, Any], name: str) -> bool:
    value = payload.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(name, f"expected true or false, found {json_type(value)}")
    return value
