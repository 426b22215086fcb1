"""Words that were found on one guard, as an attack of a campaign against any target."""

from collections.abc import Sequence

from lockgate.errors import RedTeamError
from lockgate.redteam._attempts import Attempt, Play
from lockgate.redteam._queries import Query
from lockgate.redteam.whitebox._attack import exchange_of
from lockgate.redteam.whitebox._found import Found
from lockgate.redteam.whitebox._layout import fill


class FoundWords:
    """An attack that sends what `attack_guard` has found. Queries without words are not asked.

    Raises:
        RedTeamError: something was not found in token space, so there is no text.
    """

    family = "gradient"
    adaptive = False

    def __init__(self, name: str, found: Sequence[Found]) -> None:
        if any(one.space != "tokens" for one in found):
            raise RedTeamError(f"{name}: free embeddings are no text; give attacks in token space")
        self.name = name
        self._found = {one.query: one for one in found if one.words}

    def play(self, query: Query, seed: int) -> Play:
        """Yield the one attempt. The seed changes nothing."""
        found = self._found.get(query.id)
        if found is None:
            return
        own = exchange_of(query)
        # An obedient model is asked for the same words between its sentences.
        sent = fill(own, found.slots, found.words)
        last = len(own) - 1
        pairs = zip(found.slots, found.words, strict=True)
        filler = [text + slot.tail for slot, text in pairs if slot.message == last]

        def read(answer: str) -> str:
            for text in filler:
                answer = answer.replace(text, "", 1)
            return answer

        facts = {"target": found.target, "margin": found.margins[-1]}
        yield Attempt(sent[:-1], sent[-1].content, read, facts)
