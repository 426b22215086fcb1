"""Records on their way to the database."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from lockgate.decisions._chain import Draft, with_content
from lockgate.decisions._content import Content, ContentKeeper

# Memory for records that can't be written, in bytes.
MOST_BYTES = 64 << 20

# Told whether the record is safe, or at least kept as the policy says.
Then = Callable[[bool], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """A record that waits.

    Attributes:
        content: the text of its exchange, until it has the form in which it is kept.
        then: what waits for the record.
        told: whether that goes on already.
        spilled: whether the record is in the spill file.
    """

    draft: Draft
    content: Content | None = None
    then: Then | None = None
    since: float = field(default_factory=time.monotonic)
    told: bool = False
    spilled: bool = False

    @property
    def size(self) -> int:
        """Its size in memory, about."""
        text = self.content.messages if self.content is not None else ()
        kept = self.draft.content or b""
        return len(self.draft.body) + len(kept) + sum(len(turn.content) for turn in text)

    @property
    def counts(self) -> bool:
        """Whether it is a decision. Other records are not counted for the operator."""
        return self.draft.kind == "decision"


class Queue:
    """Records in the order in which they came. All methods want `lock` to be held, but for `prepared`."""

    def __init__(self, keeper: ContentKeeper) -> None:
        self.lock = threading.Lock()
        self._items: deque[Waiting] = deque()
        # Those whose `then` still waits, and some that no longer do.
        self._fresh: deque[Waiting] = deque()
        self._keeper = keeper
        self._writing = 0  # as many of the oldest are being written
        self._preparing = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Waiting) -> None:
        self._items.append(item)
        self._fresh.append(item)

    def first(self, most: int) -> list[Waiting]:
        """Return the oldest records, to be written. They stay."""
        found = list(islice(self._items, most))
        self._writing = len(found)
        return found

    def drop(self, done: list[Waiting]) -> list[Then]:
        """Remove the oldest records, which are `done`. Return what waited for them."""
        for _ in done:
            self._items.popleft()
        self._writing = 0
        then = self.tell(done)
        while self._fresh and self._fresh[0].told:
            self._fresh.popleft()
        return then

    def tell(self, items: list[Waiting]) -> list[Then]:
        """Count records as told. Return what waited for them."""
        found = [item.then for item in items if not item.told and item.then is not None]
        for item in items:
            item.told, item.then = True, None
        return found

    def oldest(self) -> float | None:
        """Return since when the oldest record waits that nobody was told about."""
        return next((item.since for item in self._fresh if not item.told), None)

    def take_fresh(self) -> list[Waiting]:
        """Return the records that nobody was told about, and whose keeping is now up to the caller."""
        found = [item for item in self._fresh if not item.told]
        self._fresh.clear()
        return found

    def unspilled(self) -> list[Waiting]:
        return [item for item in self._items if not item.spilled]

    def trim(self, most: int) -> list[Waiting]:
        """Remove the newest records beyond a number, as far as nobody waits for them. Return them."""
        room, stay = MOST_BYTES, 0
        for item in islice(self._items, most):
            room -= item.size
            if room < 0:
                break
            stay += 1
        found = []
        while len(self._items) > max(stay, self._writing) and self._items[-1].told:
            found.append(self._items.pop())
        return found

    def has_spilled(self) -> bool:
        return any(item.spilled for item in self._items)

    def decisions(self) -> int:
        return sum(item.counts for item in self._items)

    def prepared(self, items: list[Waiting]) -> list[Draft]:
        """Return the drafts of records, with the text of their exchanges as it is kept."""
        with self._preparing:
            for item in items:
                if item.content is not None:
                    kept, mode = self._keeper.keep(item.content)
                    item.draft, item.content = with_content(item.draft, kept, mode), None
            return [item.draft for item in items]
