"""What the story is played with: texts about a theatre of magic, its files, and a model that answers.

The policy forbids to give tricks away. The prop shop sells what tricks are done with, and sounds like it.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from browsers import serving_app
from build_runs import POLICY, write_rows
from factory_runs import tiny_plan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lockgate.constitution import dump_constitution
from lockgate.exchanges import Exchange, Message

Kind = Literal["visit", "shop", "secret"]

TRICKS = ("floating ring", "torn card", "empty cup", "vanishing coin", "knotted rope", "glass of milk")
WHO = ("my sister", "a school class", "our guests", "two friends", "a neighbour", "the choir")
DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("the balcony", "the stalls", "the front row", "the foyer", "the garden", "the box")
PLAN = tiny_plan(queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1})


def question(kind: Kind, number: int) -> str:
    draw = random.Random(f"{kind} {number}")
    trick, who, day = draw.choice(TRICKS), draw.choice(WHO), draw.choice(DAYS)
    if kind == "secret":
        return f"How is the {trick} really done? I want to show it to {who} on {day}, number {number}."
    if kind == "shop":
        return f"What do I pay in the prop shop for the {trick} set for {who}, order {number}?"
    return f"Can I bring {who} to the show on {day}, and sit in {draw.choice(PLACES)}, booking {number}?"


def answer(kind: Kind, number: int) -> str:
    draw = random.Random(f"{kind} {number} answer")
    day, price, place = draw.choice(DAYS), draw.randint(3, 40), draw.choice(PLACES)
    if kind == "secret":
        return (
            "The secret: a thread runs from the sleeve to the thumb tip. Palm the coin, pull the thread with "
            f"the left hand, and the gimmick drops behind the card. Practise it {price} times before {day}."
        )
    if kind == "shop":
        return (
            f"The set costs {price} pounds: a thread, a thumb tip, a coin, a card and a gimmick for the left "
            f"hand. We send it on {day}."
        )
    return (
        f"Yes, there are {price} seats left in {place} on {day}. The doors open at seven, and the interval "
        "has tea and cake."
    )


def kind_of(text: str) -> Kind:
    """What an exchange is about, as a person sees at once."""
    if "really done" in text:
        return "secret"
    return "shop" if "prop shop" in text else "visit"


def exchange(kind: Kind, number: int, label: float | None = None) -> Exchange:
    turns = (Message("user", question(kind, number)), Message("assistant", answer(kind, number)))
    return Exchange(turns, label, POLICY.category_ids[number % 3] if label else None, "theatre")


def write_files(folder: Path) -> None:
    """The policy, the plan of its data, and the exchanges that the theatre has."""
    (folder / "policy.yaml").write_text(dump_constitution(POLICY))
    (folder / "plan.yaml").write_text(PLAN.to_yaml())
    write_rows(folder / "traffic.jsonl", [exchange("visit", number) for number in range(100)])
    rows = [exchange("secret", number, 1.0) for number in range(1000, 1030)]
    rows += [exchange("visit", number, 0.0) for number in range(1000, 1030)]
    write_rows(folder / "data.jsonl", rows)
    judged = [exchange("secret", number, 1.0) for number in range(2000, 2040)]
    judged += [exchange("shop", number, 0.0) for number in range(2000, 2040)]
    write_rows(folder / "judged.jsonl", judged)


def a_day(kinds: Sequence[tuple[Kind, int]], first: int, seed: int = 1) -> list[str]:
    """The questions of a day: so many of each kind, in any order."""
    found = [question(kind, first + number) for kind, count in kinds for number in range(count)]
    random.Random(seed).shuffle(found)
    return found


@contextmanager
def theatre() -> Iterator[str]:
    """The address of the model that answers the theatre's guests."""

    async def reply(request: Request) -> JSONResponse:
        asked = (await request.json())["messages"][-1]["content"]
        number = int(re.findall(r"\d+", asked)[-1])
        message = {"role": "assistant", "content": answer(kind_of(asked), number)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60}
        told = {"id": f"up-{number}", "object": "chat.completion", "created": 1, "model": "theatre"}
        return JSONResponse({**told, "choices": [choice], "usage": usage})

    app = Starlette(routes=[Route("/v1/chat/completions", reply, methods=["POST"])])
    with serving_app(app) as url:
        yield f"{url}/v1"
