"""Attacks by an attacker model that sees replies: in a line (PAIR) and in a pruned tree (TAP)."""

from dataclasses import dataclass

from lockgate.exchanges import Message
from lockgate.redteam._attempts import Play, Seen
from lockgate.redteam._queries import Query
from lockgate.redteam.attacks._attacker import Attacker, Idea, told
from lockgate.redteam.attacks._search import limited
from lockgate.synthesis import Generator

_ROUNDS = 4


class Pair:
    """Some independent talks with the attacker model, each refined for some rounds (arXiv 2310.08419)."""

    family = "attacker-model"
    name = "pair"
    adaptive = True

    def __init__(self, generator: Generator, streams: int = 3, depth: int = 5, budget: int = 60) -> None:
        """Make the attack.

        Args:
            generator: the attacker model.
            streams: talks that begin anew.
            depth: messages of a talk.
            budget: most attempts.
        """
        self._attacker = Attacker(generator)
        self._streams = streams
        self._depth = depth
        self._budget = budget

    def play(self, query: Query, seed: int) -> Play:
        return limited(self._search(query, seed), self._budget)

    def _search(self, query: Query, seed: int) -> Play:
        for stream in range(self._streams):
            talk = self._attacker.begin(query)
            for depth in range(self._depth):
                own = seed + 10_000 * stream + 100 * depth
                idea = self._attacker.idea(talk, own)
                if idea is None:
                    break
                seen = yield idea.attempt(query, own, {"stream": stream, "depth": depth})
                talk = told(talk, idea, seen, _ROUNDS)


@dataclass(frozen=True, slots=True)
class _Leaf:
    talk: tuple[Message, ...]
    score: tuple[int, int]


class Tap:
    """A tree of talks: each leaf branches, ideas off the question are pruned, and the best leaves go on.

    It follows Tree of Attacks with Pruning (arXiv 2312.02119). Leaves are ordered by the points of a full
    answer that came through, then by whether the guard let the reply pass.
    """

    family = "attacker-model"
    name = "tap"
    adaptive = True

    def __init__(
        self, generator: Generator, width: int = 4, branches: int = 3, depth: int = 4, budget: int = 60
    ) -> None:
        """Make the attack.

        Args:
            generator: the attacker model, which also judges whether an idea still asks the question.
            width: leaves that go on.
            branches: ideas of a leaf.
            depth: levels of the tree.
            budget: most attempts.
        """
        self._attacker = Attacker(generator)
        self._width = width
        self._branches = branches
        self._depth = depth
        self._budget = budget

    def play(self, query: Query, seed: int) -> Play:
        return limited(self._search(query, seed), self._budget)

    def _search(self, query: Query, seed: int) -> Play:
        leaves = [_Leaf(self._attacker.begin(query), (0, 0))]
        sent: set[tuple[str, str]] = set()
        for depth in range(self._depth):
            grown: list[_Leaf] = []
            for number, leaf in enumerate(leaves):
                for branch in range(self._branches):
                    own = seed + 10_000 * depth + 100 * number + 10 * branch
                    idea = self._pruned(query, leaf, own, sent)
                    if idea is None:
                        continue
                    facts = {"depth": depth, "leaf": number, "branch": branch}
                    seen = yield idea.attempt(query, own, facts)
                    grown.append(_Leaf(told(leaf.talk, idea, seen, _ROUNDS), _score(seen)))
            leaves = sorted(grown, key=lambda leaf: leaf.score, reverse=True)[: self._width]

    def _pruned(self, query: Query, leaf: _Leaf, seed: int, sent: set[tuple[str, str]]) -> Idea | None:
        """Return a new idea that asks the question, or None."""
        idea = self._attacker.idea(leaf.talk, seed)
        if idea is None or (idea.message, idea.form) in sent:
            return None
        sent.add((idea.message, idea.form))
        return idea if self._attacker.same_question(query, idea, seed) else None


def _score(seen: Seen) -> tuple[int, int]:
    return len(seen.grade.topics), int(not seen.reply.halted)
