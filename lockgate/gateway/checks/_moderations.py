"""`POST /v1/moderations`: OpenAI's interface for single texts, with the categories of the policy.

Scores are 0 or 1, because a score would help an attacker.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lockgate.errors import ConfigError
from lockgate.exchanges import ContentFault, Message, content_text, json_type
from lockgate.gateway._clients import Client, caller_of
from lockgate.gateway._errors import ApiError, invalid, json_response
from lockgate.gateway._events import Finished
from lockgate.gateway._gateway import Gateway, gateway_of
from lockgate.gateway._messages import unsupported
from lockgate.gateway.checks._calls import read_call, while_connected
from lockgate.gateway.checks._check import deadline_of, guard_failed, judge

MAX_INPUTS = 64
# Texts of one request that the engine reads at a time.
AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Categories:
    """The names that an answer gives to the categories of the policy.

    Attributes:
        ids: the policy's harmful categories.
        names: another name for some of them.
    """

    ids: tuple[str, ...]
    names: Mapping[str, str]

    def result(self, end: Finished) -> dict[str, Any]:
        """Return OpenAI's object for one text."""
        flagged = end.decision in ("block", "halt")
        found = self._name(end.category) if flagged and end.category is not None else None
        names = list(dict.fromkeys(map(self._name, self.ids)))
        return {
            "flagged": flagged,
            "categories": {name: name == found for name in names},
            "category_scores": {name: float(name == found) for name in names},
            "category_applied_input_types": {name: ["text"] for name in names},
        }

    def _name(self, category: str) -> str:
        return self.names.get(category, category)


async def moderations(request: Request) -> Response:
    """Judge each text of a request by itself."""
    gateway = gateway_of(request)
    texts = await read_call(request, _inputs)
    client = caller_of(request)
    results, place = await while_connected(request, _judge_all(gateway, texts, client))
    body = {"id": f"modr-{secrets.token_hex(12)}", "model": gateway.model_id, "results": results}
    headers = {"x-lockgate-mode": gateway.mode_for(client), "x-lockgate-judged-as": place}
    return json_response(body, headers=headers)


def judged_as(gateway: Gateway) -> str:
    """Return whose words a single text is taken for: a user's, or the model's if the guard only flags these.

    Raises:
        ApiError: the server has no guard (400).
    """
    scoring = gateway.engine.scoring
    if scoring is None:
        raise ApiError(400, "This server has no guard that could read text.", code="no_guard")
    return "prompt" if scoring.stages.thresholds.flag_on == "both" else "answer"


def categories_of(gateway: Gateway) -> Categories:
    """Return the categories of the gateway's guard."""
    scoring = gateway.engine.scoring
    heads = () if scoring is None else scoring.stages.head.category_ids
    policy = ((gateway.about_guard or {}).get("constitution") or {}).get("categories") or {}
    return Categories(tuple(dict.fromkeys([*policy, *heads])), gateway.options.checks.moderation_names)


def check_names(gateway: Gateway) -> None:
    """Refuse names for categories that the guard does not have. Raises ConfigError."""
    known = categories_of(gateway).ids
    for category in gateway.options.checks.moderation_names:
        if category not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"--moderation-name {category}: the guard has no such category; {has}")


async def _judge_all(gateway: Gateway, texts: list[str], client: Client) -> tuple[list[dict[str, Any]], str]:
    """Judge all texts under one guard. Return the results, and whose words the texts were taken for."""
    while True:
        guard, place = gateway.engine.scoring, judged_as(gateway)
        results = await _judge_each(gateway, texts, client)
        # Another guard that has taken over meanwhile may flag the words of someone else alone.
        if gateway.engine.scoring is guard:
            return results, place


async def _judge_each(gateway: Gateway, texts: list[str], client: Client) -> list[dict[str, Any]]:
    categories, place = categories_of(gateway), judged_as(gateway)
    deadline, room = deadline_of(gateway), asyncio.Semaphore(AT_A_TIME)

    async def one(text: str) -> dict[str, Any]:
        prompt, answer = (text, "") if place == "prompt" else ("", text)
        async with room:
            check = await judge(gateway, [Message("user", prompt)], answer, client, deadline)
        end = check.finished
        if end is None or end.decision not in ("pass", "block", "halt"):
            raise guard_failed()
        return categories.result(end)

    tasks = [asyncio.create_task(one(text)) for text in texts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _inputs(payload: dict[str, Any]) -> list[str]:
    """Return the texts of a request. Content parts make up one text."""
    given = payload.get("input")
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise invalid("input", f"expected text, a list of texts or a list of parts, found {json_type(given)}")
    if not given:
        raise invalid("input", "the list is empty; at least one text is needed", "empty_array")
    if not all(isinstance(item, str) for item in given):
        return [_joined(given)]
    if len(given) > MAX_INPUTS:
        raise invalid("input", f"expected at most {MAX_INPUTS} texts, found {len(given)}")
    return given


def _joined(parts: list[Any]) -> str:
    try:
        return content_text({"role": "user", "input": parts}, "user", "input")
    except ContentFault as fault:
        if fault.unsupported:
            raise unsupported(fault.field, "content parts other than text") from None
        raise invalid(fault.field, fault.what) from None
