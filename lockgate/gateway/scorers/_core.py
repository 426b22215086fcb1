"""A scorer: the model and the probe, apart from the gateway. It reads tokens and returns their logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Feed, Session, SessionPool, front
from lockgate.gateway._scoring import Scoring, to_host

UNKNOWN = "the scorer does not know this stream"


@dataclass(frozen=True, slots=True)
class Part:
    """What one stream feeds into a step of a scorer.

    Attributes:
        session: name of the stream's session.
        start: position of the first token. What the session has read behind it is forgotten.
        token_ids: the tokens.
    """

    session: str
    start: int
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scorer has found for a part: logits `[tokens, outputs]`, or the name of what went wrong."""

    rows: NDArray[np.float32] | None = None
    fault: str | None = None


class ScorerCore:
    """The sessions of one scorer. One thread uses it, and its calls come in the order of their streams.

    A part says where it begins. So a step that failed half way can be taken again, and a stream whose tail
    was only tried needs no call of its own to forget it.

    Args:
        scoring: the guard. Only its probe is used: what may leave is decided in the gateway.
        kv_tokens: key-value tokens for all sessions together.
        streams: sessions that are usually read together.
    """

    def __init__(self, backbone: Backbone, scoring: Scoring, *, kv_tokens: int, streams: int) -> None:
        read = front(backbone, 1 + max(scoring.stages.head.layers))
        self.guard = scoring.guard
        self._pool = SessionPool(read, kv_tokens, streams=streams)
        self._tap = scoring.tap
        self._sessions: dict[str, Session] = {}

    @property
    def used_tokens(self) -> int:
        """Key-value tokens that open sessions have reserved."""
        return self._pool.kv_used_tokens

    @torch.inference_mode()
    def open(self, name: str, capacity: int, prefix: list[int]) -> None:
        """Open a session behind the template's constant prefix. Raises PoolFull, ContextOverflow."""
        self._sessions[name] = self._pool.open(capacity, prefix)

    @torch.inference_mode()
    def fork(self, name: str, parent: str, start: int, capacity: int) -> None:
        """Open a session that has read the first `start` tokens of another one. Raises PoolFull."""
        if (origin := self._sessions.get(parent)) is not None:
            twin = origin.fork(capacity)
            twin.truncate(start)
            self._sessions[name] = twin

    def close(self, name: str) -> None:
        """Free a session. One that is not known is no error."""
        if (session := self._sessions.pop(name, None)) is not None:
            session.close()

    def forget(self, gateway: str) -> None:
        """Free all sessions of a gateway that is gone."""
        for name in [name for name in self._sessions if name.startswith(f"{gateway}-")]:
            self.close(name)

    @torch.inference_mode()
    def read(self, parts: Sequence[Part]) -> list[Reading]:
        """Read the parts in one packed step. What can't be read fails alone."""
        found: dict[int, Reading] = {}
        ready: list[int] = []
        for index, part in enumerate(parts):
            session = self._sessions.get(part.session)
            if session is None or not 0 <= part.start <= session.length:
                found[index] = Reading(fault=UNKNOWN)
            else:
                ready.append(index)
        try:
            rows = self._step([parts[index] for index in ready])
            found.update({index: Reading(own) for index, own in zip(ready, rows, strict=True)})
        except Exception as error:
            for index in ready:
                found[index] = self._alone(parts[index]) if len(ready) > 1 else _failed(error)
        return [found[index] for index in range(len(parts))]

    def _alone(self, part: Part) -> Reading:
        try:
            (rows,) = self._step([part])
        except Exception as error:
            return _failed(error)
        return Reading(rows)

    def _step(self, parts: Sequence[Part]) -> list[NDArray[np.float32]]:
        feeds = []
        for part in parts:
            session = self._sessions[part.session]
            session.truncate(part.start)
            feeds.append(Feed(session, part.token_ids))
        if not feeds:
            return []
        self._pool.read(feeds, self._tap)
        (rows,) = to_host([self._tap.logits])
        ends = np.cumsum([len(feed.token_ids) for feed in feeds])[:-1]
        return [part.copy() for part in np.split(rows, ends)]


def _failed(error: Exception) -> Reading:
    # The name alone: an error's words may hold text of a user.
    return Reading(fault=type(error).__name__)
