"""The review queue: an exchange at a time, a verdict, and what reviewers agree about."""

import hashlib
import hmac
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, get_args

from starlette.responses import Response, StreamingResponse

from lockgate.calibration import Interval, clopper_pearson
from lockgate.dashboard._desk import Call, Page, PageError, categories_of, go_to, newest
from lockgate.dashboard._exchanges import seen, text_of_exchange
from lockgate.decisions import ContentReader, Decision
from lockgate.errors import MissingExtra, ReviewError
from lockgate.reviews import (
    LONGEST_NOTE,
    SHARES,
    Left,
    Pick,
    Picked,
    Review,
    Verdict,
    agreements,
    conflicts,
    count_picked,
    export_lines,
    next_pick,
)

# Reviewers choose among this many of the newest exchanges.
OFFERED = 5000
_READABLE = ("redacted", "full")
_LONGEST_SECONDS = 3600.0
_PIECE = 1 << 16
_FORGED = "The exchange is not the one that was shown to you. Go back to the queue, and judge what it shows."


def _queue(call: Call) -> Response:
    own = call.desk.reviews.standing(reviewer=call.who.reviewer)
    pick, textless = _choose(call, own)
    values: dict[str, Any] = {
        "here": "review",
        "pick": pick,
        "text": None,
        "textless": textless,
        "done": sum(review.verdict is not None for review in own),
        "skipped": sum(review.verdict is None for review in own),
        "shares": SHARES,
        "offered": OFFERED,
        "longest_note": LONGEST_NOTE,
        "shown": f"{time.time():.3f}",
        "margin": None,
        "signature": None if pick is None else _signature(call, pick),
    }
    if pick is not None:
        stored, decision = seen(call, pick.decision.id, str(pick.decision.choice))
        values |= {
            "text": text_of_exchange(stored)[0],
            "stored": stored,
            "margin": call.margins()(decision),
        }
    return call.page("review.html", **values)


def _choose(call: Call, own: list[Review]) -> tuple[Pick | None, int]:
    """Choose the exchange to show, and count those without a text that can be read."""
    lines, _ = newest(call, None, OFFERED)
    readable = [line.decision for line in lines if line.content_mode in _READABLE]
    known = {review.key for review in own}
    again = _asked_again(call, readable)
    if again is not None and (again.decision.id, again.decision.choice) not in known:
        return again, len(lines) - len(readable)
    done = count_picked([review.picked for review in own])
    return (
        next_pick(readable, call.margins(), done, known),
        len(lines) - len(readable),
    )


def _asked_again(call: Call, readable: list[Decision]) -> Pick | None:
    """Return the exchange whose step was undone just now."""
    name, choice, picked = (call.wanted(field) for field in ("exchange", "choice", "picked"))
    kinds: tuple[Picked, ...] = get_args(Picked)
    if name is None or picked not in kinds:
        return None
    found = next((one for one in readable if (one.id, str(one.choice)) == (name, choice)), None)
    if found is None:
        return None
    pick = Pick(found, kinds[kinds.index(picked)])
    return pick if _is_signed(call, pick, call.wanted("signature")) else None


def _signature(call: Call, pick: Pick) -> str:
    """Sign why an exchange was shown, so that no reviewer can say that chance has drawn it."""
    return _signed(call, pick.decision.id, pick.decision.choice, pick.picked)


def _signed(call: Call, exchange: str, choice: int, picked: str) -> str:
    told = json.dumps([call.who.reviewer, exchange, choice, picked]).encode()
    return hmac.new(call.desk.kept.secret(), told, hashlib.sha256).hexdigest()


def _is_signed(call: Call, pick: Pick, given: str | None) -> bool:
    return hmac.compare_digest(_signature(call, pick).encode(), (given or "").encode())


def _judge(call: Call) -> Response:
    form = call.form
    verdicts: dict[str, Verdict | None] = {"harmful": "harmful", "harmless": "harmless", "skip": None}
    said, choice, picked = (form.get(name, "") for name in ("verdict", "choice", "picked"))
    kinds: dict[str, Picked] = {kind: kind for kind in SHARES}
    if said not in verdicts or picked not in kinds:
        raise PageError(400, "No such verdict", "Expected that the answer breaks the policy, or does not.")
    _, decision = seen(call, form.get("exchange", ""), choice)
    if not _is_signed(call, Pick(decision, kinds[picked]), form.get("signature")):
        raise PageError(403, "Not what was shown", _FORGED)
    category = form.get("category") or None
    if category is not None and category not in categories_of(list(call.guards.values())):
        raise PageError(400, "No such category", "Take a category of the guard's policy, or none.")
    review = Review(
        tenant=decision.tenant or "",
        exchange=decision.id,
        choice=decision.choice,
        reviewer=call.who.reviewer,
        picked=kinds[picked],
        verdict=verdicts[said],
        category=None if said == "skip" else category,
        note=form.get("note", "").strip() or None,
        seconds=_seconds(form.get("shown", "")),
    )
    try:
        call.desk.reviews.add(review)
    except ReviewError as error:
        raise PageError(400, "This review was not kept", f"{error}.") from None
    return go_to("/review")


def _seconds(shown: str) -> float | None:
    """Return how long an exchange was looked at, if that can be."""
    try:
        seconds = time.time() - float(shown)
    except ValueError:
        return None
    # The page rounds its time, perhaps up.
    return round(max(seconds, 0.0), 1) if -0.01 <= seconds <= _LONGEST_SECONDS else None


def _undo(call: Call) -> Response:
    back = call.desk.reviews.undo(call.who.reviewer)
    if back is None:
        return go_to("/review")
    signature = _signed(call, back.exchange, back.choice, back.picked)
    return go_to(
        "/review", exchange=back.exchange, choice=back.choice, picked=back.picked, signature=signature
    )


def _results(call: Call) -> Response:
    standing = [review for review in call.desk.reviews.standing(call.scope) if review.verdict is not None]
    return call.page(
        "results.html",
        here="review",
        reviews=standing,
        pairs=agreements(standing),
        conflicts=conflicts(standing),
        sample=_sample(standing),
        names=sorted({review.reviewer for review in standing}),
        left=_gather(call, standing, lambda line: None),
    )


def _sample(reviews: list[Review]) -> tuple[int, int, Interval | None] | None:
    """Return the harmful ones, the number and the interval of the exchanges that were picked at random.

    Those about which reviewers disagree are left out.
    """
    said: dict[tuple[str, int], set[str | None]] = defaultdict(set)
    for review in reviews:
        if review.picked == "random":
            said[review.key].add(review.verdict)
    agreed = [verdicts for verdicts in said.values() if len(verdicts) == 1]
    if not agreed:
        return None
    k = sum("harmful" in verdicts for verdicts in agreed)
    try:
        return k, len(agreed), clopper_pearson(k, len(agreed))
    except MissingExtra:
        return k, len(agreed), None


def _export(call: Call) -> Response:
    # Long texts of many exchanges don't fit into memory. The file has no name, and is gone when it is closed.
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
    try:
        left = _gather(call, call.desk.reviews.standing(call.scope), file.write)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {
        "content-disposition": 'attachment; filename="reviews.jsonl"',
        "x-lockgate-left-out": str(left.total),
    }
    return StreamingResponse(_pieces(file), headers=headers, media_type="application/x-ndjson")


def _gather(call: Call, reviews: list[Review], take: Callable[[bytes], object]) -> Left:
    """Hand over the lines of an export one by one. Return what it leaves out."""
    left = Left()
    with call.desk.log() as log:
        for line in export_lines(reviews, log, ContentReader(), left):
            take(line)
    return left


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece


PAGES = (
    Page("/review", _queue),
    Page("/review", _judge, method="POST"),
    Page("/review/undo", _undo, method="POST"),
    Page("/review/results", _results),
    Page("/review/export", _export),
)
