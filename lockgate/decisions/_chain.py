"""The hash chain of the decision log. Pure: entries in, hashes out.

Every process that writes has a chain of its own. Entry 0 of a chain, the genesis, names the tip of the
writer's chain before it. The hash of an entry covers the hash before it and all of its own columns, the text
and the content through their digests.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["genesis", "start", "decision", "purge", "lost", "guard", "end"]
# A chain begins with this in place of a hash.
NOTHING = "0" * 64
_DOMAIN = "lockgate decision log 1"


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that has no place in a chain yet.

    Attributes:
        at: when it was handed to the log, in UTC.
        body: a record as JSON.
        exchange, choice: which exchange it is about.
        content: text of the exchange, in the form that `content_mode` names.
    """

    kind: Kind
    at: str
    body: str
    exchange: str | None = None
    choice: int | None = None
    content: bytes | None = None
    content_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest entry of a chain."""

    chain: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A draft at its place in a chain."""

    chain: str
    seq: int
    draft: Draft
    hash: str

    @property
    def tip(self) -> Tip:
        return Tip(self.chain, self.seq, self.hash)


def new_chain() -> str:
    """Return a name for a chain. Names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(6)}"


def link(previous: str, chain: str, seq: int, draft: Draft) -> str:
    """Return the hash of an entry: SHA-256 of a JSON list of strings, in hex."""
    parts = [
        *(_DOMAIN, previous, chain, str(seq), draft.kind, draft.at),
        "" if draft.exchange is None else f"={draft.exchange}",
        "" if draft.choice is None else str(draft.choice),
        hashlib.sha256(draft.body.encode()).hexdigest(),
        "" if draft.content_mode is None else f"={draft.content_mode}",
        "" if draft.content is None else hashlib.sha256(draft.content).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def extend(tip: Tip, drafts: Iterable[Draft]) -> list[Entry]:
    """Put drafts behind the tip of a chain."""
    entries = []
    for draft in drafts:
        seq = tip.seq + 1
        entry = Entry(tip.chain, seq, draft, link(tip.hash, tip.chain, seq, draft))
        entries.append(entry)
        tip = entry.tip
    return entries


def begin(
    chain: str, at: str, writer: str, version: str, before: Tip | None, *, moved: bool = False
) -> Entry:
    """Make the genesis of a chain.

    Args:
        before: tip of the writer's chain before this one. None: there is none.
        moved: whether that chain is in another database, because the old one was moved or removed.
    """
    previous = None if before is None else {"chain": before.chain, "seq": before.seq, "hash": before.hash}
    body = {"writer": writer, "version": version, "previous": previous, "moved": moved}
    [entry] = extend(Tip(chain, -1, NOTHING), [Draft("genesis", at, json.dumps(body))])
    return entry


@dataclass(frozen=True, slots=True)
class Break:
    """A link that does not hold."""

    writer: str
    chain: str
    seq: int
    what: str

    def __str__(self) -> str:
        return f"writer {self.writer}, chain {self.chain}, entry {self.seq}: {self.what}"


def previous_of(draft: Draft) -> tuple[Tip | None, bool, str]:
    """Return the tip that a genesis names, whether it is in another database, and the writer.

    Raises:
        ValueError: the body is not that of a genesis.
    """
    body = _object(draft.body)
    named, moved = body.get("previous"), body.get("moved")
    return (None if named is None else _tip(named)), moved is True, str(body.get("writer"))


def removed_by(draft: Draft) -> list[Tip]:
    """Return, for each chain, the last entry that had been removed when a purge was recorded.

    Raises:
        ValueError: the body is not that of a purge.
    """
    listed = _object(draft.body).get("removed")
    if not isinstance(listed, list):
        raise ValueError("no list of chains")
    return [_tip(named) for named in listed]


def _object(body: str) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _tip(named: Any) -> Tip:  # noqa: ANN401 - JSON
    try:
        chain, seq, digest = named["chain"], named["seq"], named["hash"]
    except (TypeError, KeyError):
        raise ValueError("no tip of a chain") from None
    if not (isinstance(chain, str) and isinstance(seq, int) and isinstance(digest, str)):
        raise ValueError("no tip of a chain")
    return Tip(chain, seq, digest)


class Checker:
    """Checks the entries of all chains, given one after another in the order of chain and number.

    Args:
        roots: the entries of the kinds `genesis` and `purge`, which say where chains begin.
        writers: name of the writer of each chain.
        heads: tips that were noted earlier, outside of the database.
    """

    def __init__(self, roots: Sequence[Entry], writers: dict[str, str], heads: Sequence[Tip] = ()) -> None:
        self.breaks: list[Break] = []
        self.tips: dict[str, Tip] = {}
        self.ended: set[str] = set()
        self._writers = writers
        self._removed: dict[str, list[Tip]] = {}
        # The entries that must exist: who names them, and the hash they must have.
        self._wanted: dict[tuple[str, int], list[tuple[Tip | None, str]]] = {}
        self._broken: set[str] = set()
        self._last: Tip | None = None
        for root in roots:
            self._note_root(root)
        for head in heads:
            self._want(head, None)

    def add(self, entry: Entry) -> None:
        """Check the next entry."""
        last, self._last = self._last, entry.tip
        if last is None or last.chain != entry.chain:
            previous = self._start(entry)
        else:
            previous = last.hash
            if entry.seq != last.seq + 1:
                self._break(entry.tip, f"entry {last.seq + 1} is missing")
            elif entry.draft.kind == "genesis":
                self._break(entry.tip, "a genesis stands inside of a chain")
            elif entry.chain in self.ended:
                self._break(entry.tip, "stands behind the end of its chain")
        if link(previous, entry.chain, entry.seq, entry.draft) != entry.hash:
            self._break(entry.tip, "the hash is not that of this entry behind the one before it")
        if entry.draft.kind == "end":
            self.ended.add(entry.chain)
        self.tips[entry.chain] = entry.tip
        for _, digest in self._wanted.pop((entry.chain, entry.seq), ()):
            if digest != entry.hash:
                self._break(entry.tip, "has another hash than was noted of it elsewhere")

    def finish(self) -> list[Break]:
        """Return all links that do not hold, one for each chain, in the order they were found."""
        for (chain, seq), named in self._wanted.items():
            for by, _ in named:
                if any(tip.seq >= seq for tip in self._removed.get(chain, ())):
                    continue
                place = Tip(chain, seq, "") if by is None else by
                source = "was noted earlier" if by is None else f"is named: entry {seq} of chain {chain}"
                self._break(place, f"an entry is missing that {source}")
        return self.breaks

    def _note_root(self, root: Entry) -> None:
        try:
            if root.draft.kind == "purge":
                for tip in removed_by(root.draft):
                    self._removed.setdefault(tip.chain, []).append(tip)
            elif root.draft.kind == "genesis":
                before, moved, writer = previous_of(root.draft)
                if self._writers.get(root.chain) != writer:
                    self._break(root.tip, f"its chain is that of {writer}")
                if before is not None and not moved:
                    self._want(before, root.tip)
        except ValueError:
            self._break(root.tip, f"is no {root.draft.kind} that can be read")

    def _want(self, tip: Tip, by: Tip | None) -> None:
        self._wanted.setdefault((tip.chain, tip.seq), []).append((by, tip.hash))

    def _start(self, entry: Entry) -> str:
        """Return the hash before the first entry of a chain that is there."""
        if entry.seq == 0:
            if entry.draft.kind != "genesis":
                self._break(entry.tip, "a chain begins without a genesis")
            return NOTHING
        for tip in self._removed.get(entry.chain, ()):
            if tip.seq == entry.seq - 1:
                return tip.hash
        self._break(
            entry.tip, f"entry {entry.seq - 1} and those before it are missing, and no purge names them"
        )
        return NOTHING

    def _break(self, place: Tip, what: str) -> None:
        """Note the first link of a chain that does not hold. What follows from it is not counted."""
        if place.chain not in self._broken:
            self._broken.add(place.chain)
            writer = self._writers.get(place.chain, "unknown")
            self.breaks.append(Break(writer, place.chain, place.seq, what))


def check(entries: Sequence[Entry], writers: dict[str, str], heads: Sequence[Tip] = ()) -> list[Break]:
    """Check entries that are all in memory."""
    checker = Checker([e for e in entries if e.draft.kind in ("genesis", "purge")], writers, heads)
    for entry in in_order(entries):
        checker.add(entry)
    return checker.finish()


def in_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sort entries by chain and number, as a database gives them."""
    return iter(sorted(entries, key=lambda entry: (entry.chain, entry.seq)))


def with_content(draft: Draft, content: bytes | None, mode: str | None) -> Draft:
    """Return a draft with the text of its exchange."""
    return replace(draft, content=content, content_mode=mode)
