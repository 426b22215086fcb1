"""Sessions: token streams over a key-value memory. Any number of them advance in one packed pass."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lockgate.backbones._attention import KeyValues, PackedStep, Segment, Slab
from lockgate.backbones._backbone import Backbone
from lockgate.backbones._taps import Tap
from lockgate.errors import BackboneError, ContextOverflow, PoolFull

_KEPT_PREFIXES = 8


class Session(KeyValues):
    """One stream: the number of tokens that the backbone has read, with their keys and values.

    The session reserves memory for `capacity` tokens from its pool. `close` gives it back.
    """

    def __init__(self, pool: "SessionPool", capacity: int, slab: Slab | None = None) -> None:
        super().__init__(capacity, slab)
        self._pool = pool
        self._open = True

    def fork(self, capacity: int) -> "Session":
        """Open a new session that has read the same tokens. The keys and values are copied once.

        Args:
            capacity: tokens that the new session can hold, at least as many as this one has read.

        Raises:
            PoolFull: there is no memory for `capacity` tokens.
            BackboneError: the session is closed.
        """
        if not self._open:
            raise BackboneError("the session is closed; there is nothing left to fork")
        twin = self._pool.open(max(capacity, self.length))
        twin.copy(self)
        return twin

    def truncate(self, length: int) -> None:
        """Forget all tokens except the first `length`. The next tokens overwrite their keys and values.

        Raises:
            BackboneError: `length` is negative, or the session has read fewer tokens.
        """
        if not 0 <= length <= self.length:
            raise BackboneError(f"the session has read {self.length} tokens; it cannot be cut to {length}")
        self.length = length

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        if self._open:
            self._open = False
            self.drop()
            self._pool._release(self.capacity, self.slab)


@dataclass(frozen=True, slots=True)
class Feed:
    """New tokens for one session.

    Attributes:
        session: the session that reads them.
        token_ids: the tokens, at least one.
        want_logits: whether `SessionPool.step` returns the next-token logits after the last of them.
    """

    session: Session
    token_ids: Sequence[int]
    want_logits: bool = False


class SessionPool:
    """The sessions of one backbone, with a common limit of key-value tokens.

    The pool is not thread-safe: one owner steps it.

    Args:
        backbone: the model that reads.
        kv_budget_tokens: largest sum of the capacities of all open sessions.
        streams: sessions that are usually fed together, one token each. Up to this many share memory, so that
            attention reads them in one call.
    """

    def __init__(self, backbone: Backbone, kv_budget_tokens: int, *, streams: int = 1) -> None:
        self.backbone = backbone
        self.streams = streams
        self._slabs: list[Slab] = []
        self.kv_budget_tokens = kv_budget_tokens
        self.kv_used_tokens = 0
        self._prefixes: OrderedDict[tuple[int, ...], Session] = OrderedDict()
        self._tap: Tap | None = None

    def open(self, capacity_tokens: int, prefix: Sequence[int] = ()) -> Session:
        """Open a session and reserve memory for `capacity_tokens` tokens.

        Args:
            prefix: tokens of the template's constant prefix. They are read once per pool and no tap sees
                them. The new session starts after them, with their keys and values (`length == len(prefix)`).

        Raises:
            ContextOverflow: the capacity is larger than the backbone's context or smaller than the prefix.
            PoolFull: the memory is used up for now.
        """
        if capacity_tokens < max(1, len(prefix)):
            raise ContextOverflow(f"{capacity_tokens} tokens asked for, the prefix alone has {len(prefix)}")
        if capacity_tokens > self.backbone.context_length:
            raise ContextOverflow(
                f"{capacity_tokens} tokens asked for, the context holds {self.backbone.context_length}"
            )
        if self.kv_used_tokens + capacity_tokens > self.kv_budget_tokens:
            raise PoolFull(f"{self.kv_used_tokens} of {self.kv_budget_tokens} key-value tokens are in use")
        held = self._prefix(tuple(prefix)) if prefix else None
        session = Session(self, capacity_tokens, self._slab(capacity_tokens))
        if held is not None:
            session.copy(held)
        self.kv_used_tokens += capacity_tokens
        return session

    def step(self, feeds: Sequence[Feed], tap: Tap | None = None) -> list[Tensor | None]:
        """Read the new tokens of all `feeds` in one forward pass.

        After an error nothing was read.

        Args:
            tap: sees the activations of all new tokens, in the order of the feeds.

        Returns:
            For each feed, the float32 logits `[vocab]` after its last token, or None if not wanted.

        Raises:
            ContextOverflow: a feed has more tokens than its session can still hold.
            BackboneError: a feed has no tokens, or its session is closed, of another pool or fed twice.
        """
        rows = self.read(feeds, tap)
        wanted = [row[-1] for row, feed in zip(rows, feeds, strict=True) if feed.want_logits]
        logits = iter(self.backbone.next_token_logits(torch.stack(wanted)) if wanted else ())
        return [next(logits) if feed.want_logits else None for feed in feeds]

    def read(self, feeds: Sequence[Feed], tap: Tap | None = None) -> list[Tensor]:
        """Read as `step` does, without logits. Raises the same errors.

        Returns:
            For each feed, the final hidden states `[tokens, hidden]`.
        """
        self._check(feeds)
        self._tap = tap
        with self.backbone.turn:
            self.backbone.use_tap(tap)
            return self._forward(feeds, tap) if feeds else []

    def _check(self, feeds: Sequence[Feed]) -> None:
        if len({id(feed.session) for feed in feeds}) < len(feeds):
            raise BackboneError("a session is fed twice in one step; give it all its tokens in one feed")
        for feed in feeds:
            if not len(feed.token_ids) or not feed.session._open or feed.session._pool is not self:
                raise BackboneError("each feed needs at least one token and an open session of this pool")
            if feed.session.length + len(feed.token_ids) > feed.session.capacity:
                raise ContextOverflow(
                    f"session holds {feed.session.length} of {feed.session.capacity} tokens; "
                    f"{len(feed.token_ids)} more do not fit"
                )

    def _forward(self, feeds: Sequence[Feed], tap: Tap | None) -> list[Tensor]:
        segments: list[Segment] = []
        ids: list[int] = []
        positions: list[int] = []
        start = 0
        for feed in feeds:
            end, past = start + len(feed.token_ids), feed.session.length
            segments.append(Segment(feed.session, start, end, past))
            feed.session.reached = max(feed.session.reached, past + end - start)
            ids.extend(feed.token_ids)
            positions.extend(range(past, past + end - start))
            start = end
        if tap is not None:
            tap.begin(start)
        hidden = self.backbone.forward(ids, positions, PackedStep(segments))
        for feed in feeds:
            feed.session.length += len(feed.token_ids)
        return [hidden[segment.start : segment.end] for segment in segments]

    def _prefix(self, ids: tuple[int, ...]) -> Session:
        held = self._prefixes.get(ids)
        if held is None:
            held = Session(self, len(ids))
            with self.backbone.turn:
                self.backbone.use_tap(None)
                self._forward([Feed(held, ids)], None)
            self._prefixes[ids] = held
            if len(self._prefixes) > _KEPT_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(ids)
        return held

    def _slab(self, capacity: int) -> Slab | None:
        """Return memory with a free slot. None gives the session memory of its own."""
        if self.streams < 2:
            return None
        # Eight sizes from one power of two to the next, so that streams of similar size share memory.
        step = max(16, 1 << max(0, capacity.bit_length() - 4))
        size = -(-capacity // step) * step
        for slab in self._slabs:
            if slab.free and slab.capacity == size:
                return slab
        left = self.kv_budget_tokens - sum(slab.slots * slab.capacity for slab in self._slabs)
        made = Slab(min(self.streams, max(1, left // size)), size)
        self._slabs.append(made)
        return made

    def _release(self, capacity: int, slab: Slab) -> None:
        self.kv_used_tokens -= capacity
        if slab in self._slabs and len(slab.free) == slab.slots:
            self._slabs.remove(slab)

    def close(self) -> None:
        """Remove this pool's hooks and drop the kept prefixes."""
        if self._tap is not None:
            with self.backbone.turn:
                if self.backbone.tap is self._tap:
                    self.backbone.use_tap(None)
        self._tap = None
        self._prefixes.clear()

    def __enter__(self) -> "SessionPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
