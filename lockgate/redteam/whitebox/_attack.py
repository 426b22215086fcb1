"""Attacks on a guard whose weights are known, query by query, and what the words do to other guards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lockgate.durable import hash_json
from lockgate.errors import RedTeamError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import ClassifierStage, Guard
from lockgate.redteam._queries import Query
from lockgate.redteam.whitebox._found import Found, Progress
from lockgate.redteam.whitebox._layout import Layout, fill, make_slots, word_tokens
from lockgate.redteam.whitebox._options import AttackOptions
from lockgate.redteam.whitebox._search import Course, search_embeddings, search_words
from lockgate.redteam.whitebox._view import GuardView, Reading


def attack_guard(
    guard: Guard,
    queries: Sequence[Query],
    options: AttackOptions | None = None,
    *,
    state: Path | None = None,
) -> list[Found]:
    """Attack a guard with each query. The answer's own text is the first full answer and never changes.

    The same guard, queries and options give the same words, unless time is limited.

    Args:
        state: file in which finished queries are kept. A run that was interrupted goes on after them.

    Raises:
        RedTeamError: the guard has not what is attacked, words can't be placed in an exchange, or `state` was
            made by another run.
    """
    options = options or AttackOptions()
    progress = Progress(state, _key(guard, queries, options))
    for query in queries:
        if query.id not in progress.done:
            progress.add(_attack(guard, query, options))
    return [progress.done[query.id] for query in queries]


@dataclass(frozen=True, slots=True)
class Transferred:
    """What words that were found on one guard do to another one.

    Attributes:
        guard: the other guard's name.
        query: id of the query.
        before, after: its margin without and with the words. Above 0 it flags; minus infinity: stage 2 was
            not asked.
        caught, success: whether it flags the plain exchange, and then no longer the one with the words.
    """

    guard: str
    query: str
    before: float
    after: float
    caught: bool
    success: bool


def transfer(
    found: Sequence[Found], queries: Sequence[Query], guards: Mapping[str, Guard]
) -> list[Transferred]:
    """Show words that were found on one guard to others, with any backbone, as text.

    Args:
        found: attacks in token space.
        queries: the queries that were attacked.
        guards: other guards by name.

    Raises:
        RedTeamError: an attack has no words, or its query is not there.
    """
    by_id = {query.id: query for query in queries}
    if missing := [one.query for one in found if one.query not in by_id or not one.words]:
        raise RedTeamError(f"{missing[0]}: expected an attack in token space on one of the queries")
    pairs: list[Exchange] = []
    for one in found:
        own = exchange_of(by_id[one.query])
        pairs += [Exchange(own), Exchange(fill(own, one.slots, one.words))]
    results = []
    for name, guard in guards.items():
        limit = guard.stages.decides - guard.stages.tolerance
        scores = list(guard.score_many(pairs))
        for number, one in enumerate(found):
            plain, attacked = scores[2 * number], scores[2 * number + 1]
            results.append(
                Transferred(
                    name,
                    one.query,
                    before=plain.mixed_max - limit,
                    after=attacked.mixed_max - limit,
                    caught=plain.flagged,
                    success=plain.flagged and not attacked.flagged,
                )
            )
    return results


def exchange_of(query: Query) -> tuple[Message, ...]:
    """Return the exchange that is attacked: the question and its first full answer."""
    return Message("user", query.text), Message("assistant", query.answers[0])


def _attack(guard: Guard, query: Query, options: AttackOptions) -> Found:
    messages = exchange_of(query)
    slots = make_slots(
        messages, prefix=options.prefix, suffix=options.suffix, filler=options.filler, gaps=options.gaps
    )
    generator = torch.Generator().manual_seed(_seed(query.id, options.seed))
    allowed = word_tokens(guard.backbone)
    drawn = torch.randint(len(allowed), (sum(slot.size for slot in slots),), generator=generator)
    most = min(options.most_tokens, guard.backbone.context_length)
    layout = Layout(guard.backbone, messages, slots, [allowed[number] for number in drawn.tolist()], most)
    plain = _read_plain(guard, messages, options, most)
    course = Course(layout.initial)
    if float(plain.margin[0]) <= 0:
        # Where nothing is caught, there is nothing to attack.
        course.note(float(plain.margin[0]), float(plain.score[0]), None, options.beyond)
    elif options.space == "embeddings":
        course = search_embeddings(GuardView(guard, layout, options), options)
    else:
        course = search_words(GuardView(guard, layout, options), allowed, options, generator)
    return _found(guard, query, options, layout, course, float(plain.margin[0]))


def _found(
    guard: Guard, query: Query, options: AttackOptions, layout: Layout, course: Course, plain: float
) -> Found:
    caught, confirmed, seconds = plain > 0, None, course.seconds
    words = layout.texts(course.words) if caught and options.space == "tokens" else ()
    if words:
        confirmed = passes(guard, layout.messages(course.words), options) == (course.margins[-1] <= 0)
    reached = course.seconds_to_success if caught else None
    return Found(
        query=query.id,
        target=options.target,
        space=options.space,
        plain=round(plain, 6),
        margins=tuple(round(margin, 6) for margin in course.margins),
        scores=tuple(None if score is None else round(score, 6) for score in course.scores),
        nats=tuple(None if nats is None else round(nats, 6) for nats in course.nats),
        success=reached is not None,
        confirmed=confirmed,
        evaluations=course.evaluations,
        seconds=round(seconds, 3),
        seconds_to_success=None if reached is None else round(reached, 3),
        slots=layout.slots if words else (),
        words=words,
    )


@torch.no_grad()
def _read_plain(guard: Guard, messages: Sequence[Message], options: AttackOptions, most: int) -> Reading:
    layout = Layout(guard.backbone, messages, (), (), most)
    view = GuardView(guard, layout, options)
    return view.read(view.probe.embed([layout.chat.token_ids]), [messages])


def passes(guard: Guard, messages: Sequence[Message], options: AttackOptions) -> bool:
    """Return whether the target lets an exchange through, by the scoring that files get."""
    exchange = Exchange(tuple(messages))
    if options.target == "classifier" and guard.classifier is not None:
        stride = 8 if guard.cascade is None else guard.cascade.stride
        (blocks,) = ClassifierStage(guard.classifier).read_blocks([exchange], stride=stride)
        judged = blocks.logits if guard.thresholds.flag_on == "both" else blocks.logits[1:]
        return max(judged) <= options.limit
    screen = options.target == "probe" and guard.cascade is not None
    return not next(iter(guard.score_many([exchange], screen=screen))).flagged


def _key(guard: Guard, queries: Sequence[Query], options: AttackOptions) -> dict[str, Any]:
    # The record of a guard that is not saved yet does not know its probe.
    probe = hashlib.sha256(guard.head.weights.numpy().tobytes() + guard.head.bias.numpy().tobytes())
    return {
        "guard": hash_json([guard.record.model_dump_json(), probe.hexdigest()]),
        "queries": hash_json([[query.id, query.text, query.answers[0]] for query in queries]),
        "options": asdict(options),
    }


def _seed(query: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{query}".encode()).digest()[:7], "big")
