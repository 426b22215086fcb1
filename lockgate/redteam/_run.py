"""The runner: plays attacks against targets, many side by side, and grades what comes of each attempt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from lockgate.redteam._attempts import Attack, Attempt, Play, Reply, Seen
from lockgate.redteam._grades import Grade, Grader
from lockgate.redteam._queries import Query
from lockgate.redteam._targets import Shot, Target

Told = Callable[["Row"], None]
_TWIN = ".twin"


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt and what came of it.

    Attributes:
        variant, attack, family, query: names.
        category: the policy's entry that the query falls under.
        seed: number of the play against this query.
        number: number of the attempt in its play.
        twin: whether the permitted twin was asked. Then `success` has no meaning.
        halted, failed, tokens, billed: see `Reply`.
        success, topics, needed, full, refused: see `Grade`.
        facts: see `Attempt`.
        messages, answer: what was sent and what came back. They are no part of results.
    """

    variant: str
    attack: str
    family: str
    query: str
    seed: int
    number: int
    twin: bool
    halted: bool
    failed: str | None
    tokens: int
    success: bool
    topics: tuple[str, ...]
    needed: int
    full: float
    refused: bool
    facts: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    answer: str = field(default="", repr=False)
    billed: tuple[int, int] = (0, 0)
    category: str | None = None

    def to_dict(self, *, texts: bool = True) -> dict[str, Any]:
        """Return a JSON object, with or without the texts."""
        found = asdict(self)
        if not texts:
            del found["messages"], found["answer"]
        return found


@dataclass(slots=True)
class _Playing:
    attack: Attack
    query: Query
    seed: int
    twin: bool
    play: Play
    attempt: Attempt
    rows: list[Row] = field(default_factory=list)


class Runner:
    """Plays attacks against one target.

    Args:
        variant: the target's name in rows.
        target: what is attacked.
        grader: the attacker's judge.
        attempts: most attempts of a play.
        batch: attempts that are asked together.
    """

    def __init__(self, variant: str, target: Target, grader: Grader, *, attempts: int, batch: int) -> None:
        self._variant = variant
        self._target = target
        self._grader = grader
        self._attempts = attempts
        self._batch = batch

    def run(
        self,
        attacks: Sequence[Attack],
        queries: Sequence[Query],
        *,
        seeds: int = 1,
        twins: int = 0,
        told: Told | None = None,
    ) -> list[Row]:
        """Play each attack against each query. A play ends by itself, at a success, or at its last attempt.

        Rows come in the order of attacks, queries, seeds and attempts, whatever was asked together.

        Args:
            twins: permitted twins that each attack asks too, in its first attempt, unless it is adaptive.
                Attacks take turns at those of the queries.
            told: called with each row as it is made.

        Raises:
            GeneratorError: an endpoint can't be used.
        """
        waiting = self._plays(attacks, queries, seeds, twins)
        playing = list(islice(waiting, self._batch))
        done: list[_Playing] = []
        while playing:
            replies = self._target.answer([Shot(one.query, one.attempt, one.seed) for one in playing])
            going: list[_Playing] = []
            for one, reply in zip(playing, replies, strict=True):
                if self._goes_on(one, reply, told):
                    going.append(one)
                else:
                    one.play.close()
                    done.append(one)
            playing = going + list(islice(waiting, self._batch - len(going)))
        order = {attack.name: place for place, attack in enumerate(attacks)}
        places = {query.id: place for place, query in enumerate(queries)}
        done.sort(
            key=lambda one: (
                order[one.attack.name],
                places[one.query.id.removesuffix(_TWIN)],
                one.seed,
                one.twin,
            )
        )
        return [row for one in done for row in one.rows]

    def _plays(
        self, attacks: Sequence[Attack], queries: Sequence[Query], seeds: int, twins: int
    ) -> Iterator[_Playing]:
        paired = [query.id for query in queries if query.twin is not None]
        turn = 0
        for attack in attacks:
            own: set[str] = set()
            if not attack.adaptive:
                own = {paired[(turn + place) % len(paired)] for place in range(min(twins, len(paired)))}
                turn += len(own)
            for query in queries:
                for seed in range(seeds):
                    yield from self._open(attack, query, seed, twin=False)
                    twin = twin_of(query) if query.id in own else None
                    if twin is not None:
                        yield from self._open(attack, twin, seed, twin=True)

    def _open(self, attack: Attack, query: Query, seed: int, *, twin: bool) -> Iterator[_Playing]:
        play = attack.play(query, seed)
        first = next(play, None)
        if first is not None:
            yield _Playing(attack, query, seed, twin, play, first)

    def _goes_on(self, one: _Playing, reply: Reply, told: Told | None) -> bool:
        """Grade a reply, and let the play make its next attempt. Return whether it does."""
        grade = self._graded(one, reply)
        row = self._row(one, reply, grade)
        one.rows.append(row)
        if told is not None:
            told(row)
        if row.success or one.twin or len(one.rows) >= self._attempts:
            return False
        try:
            # An attack that searches must not take a broken reply for one that got through.
            shown = reply if reply.failed is None else replace(reply, halted=True)
            one.attempt = one.play.send(Seen(shown, grade))
        except StopIteration:
            return False
        return True

    def _graded(self, one: _Playing, reply: Reply) -> Grade:
        """Grade an answer as it is and as its disguise is read: whichever tells more."""
        raw = self._grader.grade(one.query, reply.text)
        plain = one.attempt.read(reply.text)
        read = raw if plain == reply.text else self._grader.grade(one.query, plain)
        return max(read, raw, key=lambda grade: (grade.success, len(grade.topics)))

    def _row(self, one: _Playing, reply: Reply, grade: Grade) -> Row:
        return Row(
            variant=self._variant,
            attack=one.attack.name,
            family=one.attack.family,
            query=one.query.id.removesuffix(_TWIN),
            seed=one.seed,
            number=len(one.rows),
            twin=one.twin,
            halted=reply.halted,
            failed=reply.failed,
            tokens=reply.tokens,
            success=grade.success and reply.failed is None and not one.twin,
            topics=grade.topics,
            needed=grade.needed,
            full=grade.full,
            refused=grade.refused,
            facts=dict(one.attempt.facts),
            messages=[message.to_dict() for message in one.attempt.messages],
            answer=reply.text,
            billed=reply.billed,
            category=one.query.category,
        )


def twin_of(query: Query) -> Query | None:
    """Return the permitted twin of a query, if it has one, as a query of its own."""
    twin = query.twin
    if twin is None:
        return None
    own = {"id": query.id + _TWIN, "text": twin.text, "answers": (twin.answer,)}
    return query.model_copy(update={**own, "translations": (), "twin": None})
