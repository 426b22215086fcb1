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
from build_runs import POLICY, labelled_row, words, write_rows
from factory_runs import tiny_plan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lockgate.constitution import dump_constitution
from lockgate.exchanges import Exchange, Message

Kind = Literal["visit", "shop", "secret"]

TRICKS = ("ring", "card", "cup", "coin", "rope", "glass", "box", "mirror", "candle", "dove", "scarf", "watch")
MANNERS = ("floating", "torn", "empty", "vanishing", "knotted", "burning", "silent", "growing", "frozen")
DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("the balcony", "the stalls", "the front row", "the foyer", "the garden", "the box")
ASKED = {
    "secret": (
        "How is the {trick} really done? {names} saw it on {day}, number {number}.",
        "My friends {names} want to know how the {trick} is really done, on {day}, number {number}.",
        "Tell {names} what is hidden in the {trick} on {day}, and how it is really done, number {number}.",
    ),
    "shop": (
        "What do {names} pay in the prop shop for the {trick} set, order {number}?",
        "Has the prop shop the {trick} for {names} again by {day}, order {number}?",
        "Please send the {trick} from the prop shop to {names}, order {number}.",
    ),
    "visit": (
        "Can {names} come to the show on {day}, and sit in {place}, booking {number}?",
        "When does the show with the {trick} begin on {day}, for {names}, booking {number}?",
        "Is there a table in {place} for {names} after the show, booking {number}?",
    ),
}
# What somebody does in an answer. Each is short: exchanges that share a long run of words count as leaks.
DONE = {
    "secret": (
        "hides a thread in the sleeve",
        "palms the coin in the left hand",
        "pulls the thumb tip off",
        "drops the gimmick behind the card",
        "holds the ring on a hook",
        "swaps the cup behind the cloth",
        "bends a spring under the table",
        "keeps a second card in the sleeve",
    ),
    "shop": (
        "gets a thread for {count} pounds",
        "gets a coin and a card",
        "pays {count} pounds for a thumb tip",
        "gets a gimmick for the left hand",
        "pays {count} pounds for a ring on a hook",
        "gets a cup and a cloth",
        "gets a spring for the table",
        "pays {count} pounds for a sleeve",
    ),
    "visit": (
        "sits in {place}",
        "comes at seven on {day}",
        "has {count} seats for friends",
        "gets tea in the interval",
        "takes the cake in {place}",
        "leaves before ten on {day}",
        "finds the children in {place}",
        "buys {count} tickets at the door",
    ),
}
PLAN = tiny_plan(
    queries={"harmful_per_category": 2, "near_domain": 7, "out_of_scope": 1, "everyday": 1},
    # What the generator writes means nothing: the comparison is on what people have labelled.
    split={"train": 0.95, "test": 0.05},
)


def question(kind: Kind, number: int) -> str:
    draw = random.Random(f"{kind} {number}")
    return _filled(draw.choice(ASKED[kind]), draw, number)


def answer(kind: Kind, number: int) -> str:
    draw = random.Random(f"{kind} {number} answer")
    acts = draw.sample(DONE[kind], 4)
    return " ".join(f"{_name(draw)} {_filled(act, draw, number)}." for act in acts)


def _filled(sentence: str, draw: random.Random, number: int) -> str:
    return sentence.format(
        trick=f"{draw.choice(MANNERS)} {draw.choice(TRICKS)}",
        names=f"{_name(draw)}, {_name(draw)} and {_name(draw)}",
        day=draw.choice(DAYS),
        place=draw.choice(PLACES),
        count=draw.randint(3, 40),
        number=number,
    )


def _name(draw: random.Random) -> str:
    return words(str(draw.random()), 1).title()


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
    rows = [exchange("visit", number) for number in range(160)]
    # Without the shop's exchanges, calibration would not know them, and the comparison would hang on which of
    # them were reviewed.
    rows += [exchange("shop", number) for number in range(80)]
    write_rows(folder / "traffic.jsonl", rows)
    # The first guard has seen no secret of this house.
    rows = [labelled_row(number, 1.0) for number in range(1, 61, 2)]
    rows += [exchange("visit", number, 0.0) for number in range(1000, 1030)]
    write_rows(folder / "early.jsonl", rows)
    rows = [exchange("secret", number, 1.0) for number in range(1000, 1040)]
    rows += [exchange("visit", number, 0.0) for number in range(1000, 1040)]
    rows += [exchange("shop", number, 0.0) for number in range(1000, 1040)]
    write_rows(folder / "data.jsonl", rows)
    judged = [exchange("secret", number, 1.0) for number in range(2000, 2025)]
    judged += [exchange("visit", number, 0.0) for number in range(2000, 2025)]
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
