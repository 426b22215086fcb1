"""Representation re-use: a classifier's own top blocks run on activations that another reader has computed.

Only the blocks from the lowest adapted one up differ from the base. If the base reads a conversation anyway, its
activations below that block are re-used. Each conversation token then costs only the top blocks. Suffixes, which the
base never reads, take all blocks; the lower ones use the base's own keys and values.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lockgate.backbones import (
    Feed,
    PackedStep,
    RenderedChat,
    Segment,
    Session,
    SessionPool,
    Site,
    derive,
    derive_upper,
)
from lockgate.classifiers import ExchangeClassifier, RunningVerdict, judge, verdict_of
from lockgate.errors import BackboneError, ContextOverflow

__all__ = ["LayerTap", "SharedReader", "SharedSession"]

_CHECK_TOKENS = 32
_CHECK_TOLERANCE = 1e-3


class LayerTap:
    """A tap that keeps the output of one block. `hidden` is `[tokens, hidden]` of the latest step."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.hidden = torch.empty(0)

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """The one block's output."""
        return ((self.layer, "residual"),)

    def begin(self, tokens: int) -> None:
        """Nothing to prepare."""

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Keep a copy."""
        self.hidden = hidden.clone()


class SharedSession:
    """One conversation: the base's session that reads it, and the memory of the top blocks."""

    def __init__(self, base: Session, held: Session, verdict: RunningVerdict) -> None:
        self.base = base
        self.held = held
        self.verdict = verdict
        self._ids: list[int] = []
        self._hidden: list[Tensor] = []

    @property
    def length(self) -> int:
        """Number of conversation tokens known so far, read or not."""
        return self.held.length + len(self._ids)

    def extend(self, token_ids: Sequence[int], hidden: Tensor) -> None:
        """Add tokens that the base has read.

        Args:
            hidden: their activations from `SharedReader.tap`, `[tokens, hidden]`.

        Raises:
            BackboneError: there is not one activation for each token.
        """
        if len(token_ids) != len(hidden):
            raise BackboneError(f"{len(token_ids)} tokens with {len(hidden)} activations; expected one each")
        self._ids.extend(token_ids)
        self._hidden.append(hidden)

    def close(self) -> None:
        """Give the top blocks' memory back. The base's session stays with its owner."""
        self.held.close()


class SharedReader:
    """A classifier on top of a base that reads along. Only the owner of the base may use it.

    Attributes:
        tap: tap that sees the base's activations. Add it to the base's steps, in a `TapGroup` beside others.
        upper: backbone of the top blocks.

    Raises:
        BackboneError: the classifier adapts all blocks, or the top blocks of the architecture read more than the
            activations below them.
    """

    def __init__(self, classifier: ExchangeClassifier) -> None:
        first = classifier.record.adapter.first
        if first < 1:
            raise BackboneError(f"classifier {classifier.name} adapts every block: there is nothing to share")
        self.classifier = classifier
        self.tap = LayerTap(first - 1)
        self.upper, self._injection = derive_upper(classifier.backbone, first)
        self._lower = derive(classifier.base, depth=first)
        self._lower_tap = LayerTap(first - 1)
        self._lower.use_tap(self._lower_tap)
        self._prefixes: dict[tuple[int, ...], Tensor] = {}
        self._check()

    def pool(self, kv_tokens: int) -> SessionPool:
        """Return memory for the top blocks of up to `kv_tokens` tokens."""
        return SessionPool(self.upper, kv_tokens)

    def open(self, pool: SessionPool, base: Session, chat: RenderedChat, capacity: int) -> SharedSession:
        """Open a session beside one of the base, which has read nothing yet or only the template's prefix.

        Args:
            chat: the conversation. `extend` adds everything that the base has not read yet.

        Raises:
            PoolFull: there is no memory now.
            BackboneError: the base has read something else already.
        """
        if base.length not in (0, chat.prefix_length):
            raise BackboneError("the base has read tokens whose activations nobody kept; open both together")
        held = pool.open(min(capacity + len(self.classifier.suffix), self.upper.context_length))
        session = SharedSession(base, held, RunningVerdict(self.classifier, chat.answer_start))
        if base.length:
            prefix = tuple(chat.token_ids[: base.length])
            session.extend(prefix, self._prefix(prefix))
        return session

    def judge(self, pool: SessionPool, sessions: Sequence[SharedSession]) -> list[float]:
        """Return verdict logits after everything that the sessions know: one step of the lower and one of the top blocks.

        Raises:
            BackboneError: a session does not know all tokens that its base has read, or knows nothing.
            ContextOverflow: a base's session has no room for the suffix.
        """
        if not sessions:
            return []
        suffix = self.classifier.suffix
        for session in sessions:
            if session.length != session.base.length or not session.length:
                raise BackboneError("a shared session and its base have read different tokens")
            if session.base.length + len(suffix) > session.base.capacity:
                raise ContextOverflow(f"the base's session needs room for {len(suffix)} tokens of the suffix")
        behind = self._read_suffixes([session.base for session in sessions])
        feeds: list[tuple[SharedSession, Feed]] = []
        states: list[Tensor] = []
        for session, own in zip(sessions, behind, strict=True):
            if ids := [*session._ids, *suffix]:
                feeds.append((session, Feed(session.held, ids)))
                states.extend([*session._hidden, own])
        if feeds:
            self._injection.states = torch.cat(states)
            found = pool.read([feed for _, feed in feeds])
            for (session, _), rows in zip(feeds, found, strict=True):
                session.verdict.see(rows, session.held.length - len(rows))
                session.held.truncate(session.held.length - len(suffix))
                session._ids, session._hidden = [], []
        return [verdict_of(session.verdict) for session in sessions]

    def flops(self, tokens: int, past: float, verdicts: int) -> float:
        """Multiply-adds counted twice, for `tokens` of a conversation behind `past` and for `verdicts` suffixes."""
        reading = self.classifier.flops(tokens, past, shared=True)
        return reading + verdicts * self.classifier.flops(len(self.classifier.suffix), past + tokens)

    def _read_suffixes(self, bases: Sequence[Session]) -> list[Tensor]:
        """Read one suffix behind each session and return its lower activations. The sessions keep their length."""
        suffix = self.classifier.suffix
        if not suffix:
            return [torch.empty(0, self.upper.hidden_size, device=self.upper.device)] * len(bases)
        size = len(suffix)
        segments = [
            Segment(base, number * size, (number + 1) * size, base.length)
            for number, base in enumerate(bases)
        ]
        positions = [base.length + offset for base in bases for offset in range(size)]
        # The buffers behind a session's length are free: what it reads next overwrites them.
        self._lower.forward([*suffix] * len(bases), positions, PackedStep(segments))
        return list(torch.split(self._lower_tap.hidden, size))

    def _prefix(self, ids: tuple[int, ...]) -> Tensor:
        if ids not in self._prefixes:
            with SessionPool(self._lower, len(ids)) as pool:
                session = pool.open(len(ids))
                pool.read([Feed(session, ids)], self._lower_tap)
                session.close()
            self._lower.use_tap(self._lower_tap)
            self._prefixes[ids] = self._lower_tap.hidden
        return self._prefixes[ids]

    def _check(self) -> None:
        """Check that fixed tokens, read in both ways, give the same verdict."""
        classifier, base = self.classifier, self.classifier.base
        step = max(1, base.vocab_size // _CHECK_TOKENS)
        ids = [(7 + i * step) % base.vocab_size for i in range(_CHECK_TOKENS)]
        capacity = len(ids) + len(classifier.suffix)
        tap = base.tap
        chat = RenderedChat(ids, 0, [], 0, len(ids), len(ids))
        with SessionPool(base, capacity) as below, self.pool(capacity) as own:
            session = below.open(capacity)
            shared = self.open(own, session, chat, len(ids))
            below.read([Feed(session, ids)], self.tap)
            shared.extend(ids, self.tap.hidden)
            found = self.judge(own, [shared])[0]
        base.use_tap(tap)
        with classifier.pool(capacity) as pool:
            expected = judge(pool, [(classifier.open(pool, chat, len(ids)), [])])[0]
        if not abs(found - expected) <= _CHECK_TOLERANCE * max(1.0, abs(expected)):
            raise BackboneError(
                f"{base.name}: its top blocks read more than the activations below them; share nothing"
            )
